"""The miniature as a Core ML target, checked by the interpreter: parity, islands, drawings, damage, counts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from microforge.bundle.files import load_bundle, write_manifest
from microforge.bundle.manifest import Golden, Size, TensorSpec
from microforge.bundle.targets import Target, TargetName
from microforge.errors import BundleError
from microforge_export.build.manifest import make_manifest, make_target
from microforge_export.checks.golden import Case
from microforge_export.checks.parity import image_difference_255, measure, psnr_db
from microforge_export.checks.reference import record
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel, trace
from microforge_export.providers.microforge import read_model
from microforge_export.targets.base import TargetFiles
from microforge_runtimes import Generator, Request
from microforge_runtimes import generator as generate_module
from microforge_runtimes.engines.coreml import MilSession, coreml_specs, open_interpreted
from microforge_runtimes.mil.interpreter import Interpreter
from microforge_runtimes.mil.reader import Function, read_program

pytest.importorskip("coremltools")
from microforge_export.targets.coreml.target import RECIPES, lower_all

KEYS = ("text_encoder", "denoiser", "vae_decoder", "vae_encoder")
Cases = Mapping[str, tuple[Case, ...]]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> SourceModel:
    return read_model(checkpoint)


@pytest.fixture(scope="module")
def components(model: SourceModel) -> dict[str, SourceComponent]:
    return {item.key: item for item in model.provider.components([model.native_size], ["generate"])}


@pytest.fixture(scope="module")
def cases(model: SourceModel, components: Mapping[str, SourceComponent]) -> Cases:
    return record(
        model,
        tuple(components.values()),
        [model.native_size],
        [SampleRequest("a red circle", 0)],
        ["generate"],
    ).cases


@dataclasses.dataclass(frozen=True)
class Written:
    """A target in a folder of its own, and the package of every component."""

    folder: Path
    files: TargetFiles
    packages: Mapping[str, Path]


@pytest.fixture(scope="module")
def written(components: Mapping[str, SourceComponent], tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Every component in half precision, for iOS 17; read only."""
    folder = tmp_path_factory.mktemp("half")
    programs = {key: trace(item) for key, item in components.items()}
    artefacts = lower_all(tuple(components.values()), programs, RECIPES["fp16"])
    artefacts.lint()
    files = artefacts.write(folder)
    return Written(folder, files, {key: folder / f"coreml/{key}.mlpackage" for key in components})


@pytest.mark.parametrize("key", KEYS)
def test_half_precision_stays_within_40_db(
    key: str, written: Written, components: dict[str, SourceComponent], cases: Cases
) -> None:
    session = MilSession(written.packages[key], components[key].entry())
    assert measure(session, cases[key], threshold_db=40).psnr_db >= 40


@pytest.mark.parametrize("key", ["text_encoder", *(pytest.param(key, marks=pytest.mark.slow) for key in KEYS[1:])])  # fmt: skip
def test_single_precision_stays_far_above_60_db(
    key: str, tmp_path: Path, components: dict[str, SourceComponent], cases: Cases
) -> None:
    item = components[key]
    made = lower_all([item], {key: trace(item)}, RECIPES["fp32"]).write(tmp_path)
    session = MilSession(tmp_path / made.files[key].path, item.entry(), precision="fp32")
    assert measure(session, cases[key], threshold_db=60).psnr_db >= 100


def test_tensors_have_their_declared_names_and_core_mls_types(written: Written) -> None:
    function = read_program(written.packages["text_encoder"]).function()
    assert {name: kind.dtype for name, kind in function.inputs.items()} == {"ids": "int32", "mask": "fp32"}
    types = {name: (kind.dtype, kind.shape) for name, kind in function.output_types().items()}
    assert types == {"text": ("fp32", (1, 16, 32)), "pooled": ("fp32", (1, 32))}


def test_ids_are_the_only_tensors_that_change_their_type() -> None:
    ids, mask = (TensorSpec(name="x", shape=(1, 4), dtype=dtype) for dtype in ("int64", "float32"))
    assert [spec.dtype for spec in coreml_specs((ids, mask))] == ["int32", "float32"]


def _types(function: Function, kind: str) -> list[str]:
    """The type of every result of an operator."""
    found = [operation for operation in function.operations if operation.type == kind]
    return [item.dtype for operation in found for item in operation.outputs.values()]


def test_islands_are_single_precision_and_the_rest_is_half(written: Written) -> None:
    function = read_program(written.packages["denoiser"]).function()
    for kind in ("exp", "rsqrt", "sin", "cos", "square"):
        assert set(_types(function, kind)) == {"fp32"}, kind
    for kind in ("softmax", "layer_norm", "gelu", "silu", "conv", "sigmoid"):
        assert set(_types(function, kind)) == {"fp16"}, kind
    # the prefix sums of two directions in two blocks, and what their sums over tokens give; no learned layer
    assert _types(function, "linear").count("fp32") == 4
    assert _types(function, "matmul").count("fp32") == 2


def test_the_plan_survives_a_whole_drawing_in_half_precision(
    written: Written, components: dict[str, SourceComponent], cases: Cases
) -> None:
    """Each step takes the plan that the step before gave, so that errors can add up."""
    session = MilSession(written.packages["denoiser"], components["denoiser"].entry())
    prompt = cases["denoiser"][0].inputs["text"]
    steps = [case for case in cases["denoiser"] if np.array_equal(case.inputs["text"], prompt)]
    assert len(steps) >= 3
    plan = steps[0].inputs["plan"]
    for case in steps:
        plan = session.run({**case.inputs, "plan": plan})["next_plan"]
        assert psnr_db(case.outputs["next_plan"], plan) >= 40


def test_half_precision_keeps_a_distance_from_overflow(written: Written, cases: Cases) -> None:
    interpreter = Interpreter(read_program(written.packages["vae_decoder"]))
    for case in cases["vae_decoder"]:
        interpreter.run(case.inputs)
    assert 0 < interpreter.peak < 65504 / 4


def test_a_target_counts_files_operators_and_memory(
    written: Written, components: dict[str, SourceComponent]
) -> None:
    made, folder = written.files, written.folder
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    listed = [*made.files.values(), *(entry for entries in made.parts.values() for entry in entries)]
    assert sorted(entry.path for entry in listed) == found
    assert made.files["denoiser"].path == "coreml/denoiser.mlpackage/Data/com.apple.CoreML/model.mlmodel"
    assert made.operators["conv"] > 10 and "const" not in made.operators
    for key, memory in made.memory.items():
        half = components[key].weight_bytes() / 2
        assert 0.8 * half < memory.weights < 1.5 * half
        outputs = sum(4 * int(np.prod(spec.shape)) for spec in components[key].outputs)
        assert outputs < memory.activations and memory.peak == memory.weights + memory.activations


def test_a_package_names_its_model_and_its_weights(written: Written) -> None:
    manifest = json.loads((written.packages["denoiser"] / "Manifest.json").read_text("utf-8"))
    entries = manifest["itemInfoEntries"]
    assert entries[manifest["rootModelIdentifier"]]["path"] == "com.apple.CoreML/model.mlmodel"
    assert sorted(item["path"] for item in entries.values()) == ["com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"]  # fmt: skip


@pytest.fixture(scope="module")
def coreml_bundle(
    model: SourceModel, components: dict[str, SourceComponent], written: Written,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """A bundle of the miniature for Core ML alone; read only."""
    folder = tmp_path_factory.mktemp("bundle") / "coreml.mfb"
    shutil.copytree(written.folder, folder)
    for path, file in model.files.items():
        shutil.copyfile(file, folder / path)
    targets: dict[TargetName, Target] = {"coreml": make_target("fp16", written.files, {}, {})}
    driving, sizes = model.provider.driving(["generate"]), [model.native_size]
    write_manifest(
        folder, make_manifest(model, driving, sizes, tuple(components.values()), targets, Golden())
    )
    return folder


def test_the_generator_draws_with_the_interpreter_what_torch_draws(
    coreml_bundle: Path, model: SourceModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.provider.reference(Request("a red circle", "generate", seed=5), model.native_size)
    monkeypatch.setattr(generate_module, "open_session", open_interpreted)
    with Generator(coreml_bundle, "coreml") as generator:
        found = generator.generate("a red circle", 5).float_image
    assert expected.std() > 0.01, "a blank image would prove nothing"
    assert image_difference_255(expected, found) <= 2


def test_one_corrupted_weight_is_found_by_hash_and_by_parity(
    coreml_bundle: Path, components: dict[str, SourceComponent], cases: Cases, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.mfb"
    shutil.copytree(coreml_bundle, damaged)
    package = damaged / "coreml/vae_decoder.mlpackage"
    weights = package / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[128 + 1] ^= 0x40  # the top exponent bit of the first weight: 2^16 times larger
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=r"vae_decoder\.mlpackage.*weight\.bin has SHA-256"):
        open_interpreted(load_bundle(damaged), "coreml", "vae_decoder")
    session = MilSession(package, components["vae_decoder"].entry())
    assert measure(session, cases["vae_decoder"], threshold_db=40).psnr_db < 40
    open_interpreted(load_bundle(damaged), "coreml", "denoiser").close()  # the others are still good


@pytest.mark.slow
def test_sizes_become_functions_of_one_package_on_ios_18(model: SourceModel, tmp_path: Path) -> None:
    sizes = [Size(height=64, width=64), Size(height=64, width=96)]
    parts = [item for item in model.provider.components(sizes, ["generate"]) if item.role != "denoiser"]
    recipe = dataclasses.replace(RECIPES["int8"], deployment="ios18")
    made = lower_all(parts, {item.key: trace(item) for item in parts}, recipe).write(tmp_path)
    names = {"text_encoder.mlpackage", "vae_decoder.mlpackage", "vae_encoder.mlpackage"}
    assert {path.name for path in (tmp_path / "coreml").iterdir()} == names
    for item in parts:
        MilSession(tmp_path / made.files[item.key].path, item.entry(), item.key).close()
