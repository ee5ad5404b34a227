"""An INT8 bundle from a recipe, start to end, on the miniature; and what is said of its graphs unrun."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from torch.export import ExportedProgram

from microforge.bundle.files import load_bundle
from microforge.errors import SpecError
from microforge_export.build import lowering_stages
from microforge_export.build.builder import BuildResult, build, plan
from microforge_export.checks.half_range import half_range
from microforge_export.checks.inspect import analysis, bundle_tables, bundle_values
from microforge_export.checks.verify import verify
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.providers.microforge import read_model
from microforge_export.quantization.build_steps import lower_int8, record_calibration
from microforge_export.quantization.onnx import OnnxQuantizable, constant_bytes
from microforge_export.quantization.quality_gate import QualityError
from microforge_export.recipes.build_recipe import make_recipe, shipped_recipe
from microforge_export.recipes.int8_recipe import (
    Calibration,
    Host,
    Int8Limits,
    Int8Recipe,
)
from microforge_export.recipes.recipe_file import render_recipe
from microforge_export.targets.onnx import lower as lower_onnx
from microforge_export.targets.onnx.accelerator_support import usability

#: Random weights lose more than trained ones.
LIMITS = Int8Limits(images=2, image_psnr_median_db=22.0, image_psnr_worst_db=20.0)
RECIPE = Int8Recipe(
    model="miniature", target="onnx", host=Host(machine="x86_64", instructions=(), threads=1), limits=LIMITS,
    calibration=Calibration(samples=1, inputs=8),
    schemes={
        "text_encoder": {"*": "weight-only"}, "denoiser": {"*": "weight-only"}, "vae_decoder": {"*": "static"},
    },
)  # fmt: skip
TEST_REQUESTS = (SampleRequest("a red circle", 0),)


@pytest.fixture(scope="module", autouse=True)
def lowered_once(
    programs: dict[str, ExportedProgram], quantizables: dict[str, OnnxQuantizable]
) -> Iterator[None]:
    """Builds take the session's traces and graphs."""

    def lower(component: SourceComponent, _: ExportedProgram) -> ir.Model:
        return ir.from_proto(quantizables[component.key].model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering_stages, "trace", lambda item: programs[item.key])
        patch.setattr(lower_onnx, "lower", lower)
        yield


def int8(checkpoint: Path, out: Path, recipe: Int8Recipe = RECIPE) -> BuildResult:
    file = out.parent / "recipe.toml"
    file.write_text(render_recipe(recipe), "utf-8")
    build_recipe = make_recipe(target="onnx", precision="int8", sizes=(), tasks="generate", recipes=[file])
    return build(build_recipe, lambda: replace(read_model(checkpoint), requests=TEST_REQUESTS), out)


@pytest.fixture(scope="module")
def int8_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "int8.mfb"
    int8(checkpoint, out)
    return out


def test_the_manifest_records_quality_and_what_stayed_in_fp32(int8_bundle: Path) -> None:
    target = load_bundle(int8_bundle).manifest.targets["onnx"]
    assert target.precision == "int8" and target.precisions == {"vae_encoder": "fp32"}
    quality = target.quality["64x64"]
    assert quality.images == 2 and quality.limits.guidance_norm_ratio_low == 0.9
    assert 20.0 < quality.psnr_worst_db <= quality.psnr_median_db < 100.0
    assert target.parity["vae_decoder"].threshold_db == 20.0 and target.parity["vae_encoder"].psnr_db > 60.0


def test_weights_are_int8_in_the_one_shared_file(
    int8_bundle: Path, quantizables: dict[str, OnnxQuantizable]
) -> None:
    stored = (int8_bundle / "onnx" / "weights.bin").stat().st_size
    plain = {key: constant_bytes(item.quantized({})) for key, item in quantizables.items()}
    encoder = plain.pop("vae_encoder")  # it stays in fp32
    assert stored - encoder < 0.35 * sum(plain.values())


def test_verify_measures_again_and_reads_what_was_recorded(int8_bundle: Path) -> None:
    result = verify(load_bundle(int8_bundle))
    assert result.problems == ()
    named = [item.what for item in result.metrics["onnx"]]
    assert any(what.startswith("recorded at 64x64: median PSNR of 2 images") for what in named)
    assert any(what == "guidance-norm ratio of denoiser" for what in named)
    assert any(what.startswith("PSNR of the image of 'a red circle'") for what in named)


def test_verify_refuses_a_recorded_figure_below_its_limit(int8_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mfb"
    shutil.copytree(int8_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text("utf-8"))
    manifest["targets"]["onnx"]["quality"]["64x64"]["guidance_norm_ratio"] = 0.5
    (copy / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    (problem,) = verify(load_bundle(copy)).problems
    assert "guidance-norm ratio is 0.500, needed: 0.9 to 1.1" in problem


def test_inspect_shows_quality_and_static_analysis(int8_bundle: Path) -> None:
    opened = load_bundle(int8_bundle)
    found = analysis(opened)["onnx"]
    assert set(found["usability"]["denoiser"]) == {"nnapi", "coreml", "qnn"}
    assert all(item["method"] == "static analysis" for item in found["usability"]["denoiser"].values())
    assert not any(item["risk"] for item in found["half_range"].values())
    assert json.dumps(bundle_values(opened)) and bundle_tables(opened)
    (int8_bundle / "report.json").rename(int8_bundle / "away.json")
    try:
        assert analysis(opened) == {}, "a bundle without its report is whole"
    finally:
        (int8_bundle / "away.json").rename(int8_bundle / "report.json")


def test_the_same_recipe_writes_the_same_bytes(
    int8_bundle: Path, source_model: SourceModel, components: tuple[SourceComponent, ...],
    programs: dict[str, ExportedProgram], tmp_path: Path,
) -> None:  # fmt: skip
    calibration = record_calibration(source_model, components, [RECIPE], lambda _: None)
    planned = plan(
        make_recipe(target="onnx", precision="fp32", sizes=(), tasks="generate"), lambda: source_model
    )
    artefacts = lower_int8(RECIPE, components, programs, calibration)
    artefacts.write(tmp_path, lowering_stages.artefact_descriptions(planned))
    for file in sorted((int8_bundle / "onnx").iterdir()):
        assert file.read_bytes() == (tmp_path / "onnx" / file.name).read_bytes(), file.name


def test_a_build_below_its_limits_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    recipe = replace(
        RECIPE, limits=replace(LIMITS, image_psnr_worst_db=90.0), schemes={"vae_decoder": {"*": "static"}}
    )
    with pytest.raises(QualityError, match=r"worst PSNR of 2 images .* most is lost in vae_decoder, operator group 'conv"):  # fmt: skip
        int8(checkpoint, tmp_path / "bad.mfb", recipe)
    assert not (tmp_path / "bad.mfb").exists()


def test_a_model_without_a_shipped_recipe_is_told_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="mf-export tune CHECKPOINT --target onnx"):
        shipped_recipe("unheard-of", "onnx")


_RECIPE = """
model = "mini"
target = "onnx"
prefer = "size"
note = "{note}"
[host]
machine = "x86_64"
instructions = []
threads = 1
[schemes.vae_decoder]
"*" = "static"
"""


def test_a_distilled_model_prefers_the_recipe_of_its_steps(tmp_path: Path) -> None:
    for name, note in (("mini-onnx", "many"), ("mini-4-steps-onnx", "four")):
        (tmp_path / f"{name}.toml").write_text(_RECIPE.format(note=note), "utf-8")
    notes = [shipped_recipe("mini", "onnx", steps, tmp_path).note for steps in (None, 4, 8)]
    assert notes == ["many", "four", "many"]


@pytest.mark.parametrize(
    ("precision", "files", "named"),
    [
        ("fp32", ["a"], "makes onnx in fp32"),
        ("int8", ["a", "b"], "second recipe for onnx"),
        ("int8", ["other"], "recipe for coreml"),
    ],
)
def test_recipes_that_do_not_fit_the_build_are_refused(
    tmp_path: Path, precision: str, files: list[str], named: str
) -> None:
    other = replace(RECIPE, target="coreml", schemes={})
    for name, recipe in (("a", RECIPE), ("b", RECIPE), ("other", other)):
        (tmp_path / name).write_text(render_recipe(recipe), "utf-8")
    with pytest.raises(SpecError, match=named):
        make_recipe(
            target="onnx", precision=precision, sizes=(), tasks="generate", recipes=[tmp_path / name for name in files]
        )  # fmt: skip


def test_usability_counts_what_a_list_lacks() -> None:
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in ("x", "m", "y")]
    nodes = [helper.make_node("Relu", ["x"], ["m"]), helper.make_node("Erf", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "g", [values[0]], [values[2]], value_info=[values[1]])
    found = usability(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    nnapi = found["nnapi"]
    assert (nnapi.nodes, nnapi.supported, nnapi.partitions) == (2, 1, 1)
    assert any("Erf" in name for name in nnapi.unsupported) and nnapi.method == "static analysis"
    assert found["qnn"].nodes == 2


@pytest.mark.parametrize(("value", "risk"), [(100.0, False), (300.0, True)])
def test_half_range_finds_an_intermediate_that_outgrows_half_precision(
    tmp_path: Path, value: float, risk: bool
) -> None:
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2]) for n in "xy")
    nodes = [helper.make_node("Mul", ["x", "x"], ["square"]), helper.make_node("Tanh", ["square"], ["y"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 20)]
    )
    onnx.save(model, tmp_path / "g.onnx")
    found = half_range(tmp_path / "g.onnx", [{"x": np.full((1, 2), value, np.float32)}])
    assert (found.risk, found.tensor, found.largest) == (risk, "square", value**2)
