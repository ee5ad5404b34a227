"""A build: what it promises about parity, bytes and graphs."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from microforge.bundle.files import load_bundle
from microforge.bundle.targets import TargetName
from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline
from microforge_export.build.builder import build, stages_of
from microforge_export.build.planning import PLANNING
from microforge_export.build.stage_values import BuildRequest, OutputFolder
from microforge_export.build.stages import check_order
from microforge_export.checks import golden
from microforge_export.providers.microforge import read_model
from microforge_export.recipes.build_recipe import make_recipe
from microforge_export.targets.onnx.lint import REFUSED
from microforge_runtimes import Generator


@pytest.mark.parametrize("name", ["onnx", "executorch"])
def test_every_component_and_every_image_matches_torch(bundle: Path, name: TargetName) -> None:
    target = load_bundle(bundle).manifest.targets[name]
    assert set(target.parity) == {"text_encoder", "denoiser", "vae_decoder", "vae_encoder"}
    assert all(value.psnr_db > 90 and value.threshold_db == 60 for value in target.parity.values())
    assert target.image is not None and target.image.max_abs_255 < 0.5


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_the_bundle_draws_what_the_torch_pipeline_draws(bundle: Path, checkpoint: Path, target: str) -> None:
    reference = MicroForgePipeline.from_pretrained(checkpoint).text2img("a blue circle", seed=2**40 + 5)
    with Generator(bundle, target) as generator:
        image = generator.generate("a blue circle", seed=2**40 + 5).image
    expected = np.rint(reference[0].permute(1, 2, 0).numpy() * 255)
    assert expected.std() > 1, "a blank image would prove nothing"
    assert np.abs(image - expected).max() <= 2


def test_a_non_square_size_draws_too(two_sizes: Path) -> None:
    with Generator(two_sizes, size=(64, 96)) as generator:
        assert generator.generate("a red circle").image.shape == (64, 96, 3)


@pytest.mark.parametrize("target", ["onnx", pytest.param("executorch", marks=pytest.mark.slow)])
def test_the_chunked_ssm_exports_and_matches_torch(
    checkpoint: Path, tmp_path: Path, target: TargetName
) -> None:
    chunked = tmp_path / "chunked"
    shutil.copytree(checkpoint, chunked)
    config = json.loads((chunked / "config.json").read_text("utf-8"))
    config["model"]["backbone"] |= {"dense_limit": 0, "chunk": 6}  # many chunks on a small grid
    (chunked / "config.json").write_text(json.dumps(config), "utf-8")
    recipe = make_recipe(target=target, precision="fp32", sizes=("128x96",), tasks="generate")
    build(recipe, lambda: read_model(chunked), tmp_path / "chunked.mfb")
    built = load_bundle(tmp_path / "chunked.mfb").manifest.targets[target]
    assert built.parity["denoiser"].psnr_db > 90
    assert target == "onnx" or built.coverage["denoiser"].delegates == 1


def test_two_builds_give_the_same_graphs_and_weights(bundle: Path, checkpoint: Path, tmp_path: Path) -> None:
    recipe = make_recipe(target="onnx", precision="fp32", sizes=(), tasks="generate")
    build(recipe, lambda: read_model(checkpoint), tmp_path / "deep" / "other.mfb")
    files = sorted(path.name for path in (bundle / "onnx").iterdir())
    assert files == [
        "denoiser.onnx",
        "text_encoder.onnx",
        "vae_decoder.onnx",
        "vae_encoder.onnx",
        "weights.bin",
    ]
    for name in files:
        again = tmp_path / "deep" / "other.mfb" / "onnx" / name
        assert again.read_bytes() == (bundle / "onnx" / name).read_bytes(), name


def test_two_sizes_store_each_weight_once(bundle: Path, two_sizes: Path) -> None:
    one, two = ((folder / "onnx" / "weights.bin").read_bytes() for folder in (bundle, two_sizes))
    extents = {
        extent
        for path in (two_sizes / "onnx").glob("*.onnx")
        for extent in _external(onnx.load(str(path), load_external_data=False))
    }
    hashes = [hashlib.sha256(two[offset : offset + length]).digest() for offset, length in extents]
    assert len(set(hashes)) == len(hashes), "two extents hold the same bytes"
    positions = 4 * 64 * (2 * 3)  # float32 sinusoids of the second size; its scan orders are below 1 KB
    assert len(two) <= len(one) + positions + 64
    assert all(offset % 64 == 0 for offset, _ in extents)


def _external(model: onnx.ModelProto) -> list[tuple[int, int]]:
    found = []
    for tensor in model.graph.initializer:
        entry = {item.key: item.value for item in tensor.external_data}
        if entry:
            assert entry["location"] == "weights.bin"
            found.append((int(entry["offset"]), int(entry["length"])))
    return found


def test_graphs_are_valid_static_and_carry_the_declared_names(two_sizes: Path) -> None:
    manifest = load_bundle(two_sizes).manifest
    for key, entry in manifest.targets["onnx"].files.items():
        onnx.checker.check_model(str(two_sizes / entry.path), full_check=True)
        model = onnx.load(str(two_sizes / entry.path), load_external_data=False)
        component = manifest.components[key]
        assert [value.name for value in model.graph.input] == [spec.name for spec in component.inputs]
        assert [value.name for value in model.graph.output] == [spec.name for spec in component.outputs]
        assert not REFUSED & {node.op_type for node in model.graph.node}
        for node in model.graph.node:
            weights = {tensor.name for tensor in model.graph.initializer}
            assert not (node.op_type == "Transpose" and set(node.input) <= weights), "an unfolded transpose"


def test_files_hold_no_path_and_no_stack_trace(bundle: Path, checkpoint: Path) -> None:
    for path in (*(bundle / "onnx").glob("*.onnx"), *(bundle / "executorch").glob("*.pte")):
        data = path.read_bytes()
        assert b".py" not in data and str(checkpoint.parent).encode() not in data


def test_every_file_is_in_the_manifest_or_for_people(bundle: Path, two_sizes: Path) -> None:
    for folder in (bundle, two_sizes):
        _check_files(folder)


def _check_files(folder: Path) -> None:
    opened = load_bundle(folder)
    listed = {entry.path for entry in opened.files()} | {"manifest.json", "report.json", "preview.png"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == listed
    assert all((folder / path).stat().st_mode & 0o044 for path in listed), "readable by others"


def test_the_preview_is_the_first_drawing(bundle: Path) -> None:
    trajectory = load_bundle(bundle).manifest.golden.trajectories[0]
    image = golden.read_tensors(bundle / trajectory.file.path)["image"]
    preview = np.asarray(Image.open(bundle / "preview.png")).transpose(2, 0, 1)
    assert np.abs(preview - image[0] * 255).max() < 2
    assert (
        json.loads((bundle / "report.json").read_text())["recipe"]["requests"][0]["prompt"]
        == trajectory.prompt
    )


def test_golden_cases_cover_first_and_later_steps_of_both_branches(bundle: Path) -> None:
    cases = golden.read_cases(bundle / "golden" / "denoiser.safetensors")
    assert {float(case.inputs["has_plan"][0]) for case in cases} == {0.0, 1.0}
    assert len({case.inputs["text"].tobytes() for case in cases}) == 4, "three prompts and the empty one"
    assert all(case.inputs["plan"].any() == (case.inputs["has_plan"][0] == 1) for case in cases)


def test_a_size_is_checked_before_anything_is_written(checkpoint: Path, tmp_path: Path) -> None:
    recipe = make_recipe(target="onnx", precision="fp32", sizes=("100",), tasks="generate")
    with pytest.raises(SpecError, match="nearest allowed: 96x96"):
        build(recipe, lambda: read_model(checkpoint), tmp_path / "odd.mfb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_stages_of_a_build_are_in_order(precision: str) -> None:
    recipe = make_recipe(target="onnx,executorch", precision=precision, sizes=(), tasks="generate")
    given = frozenset({BuildRequest, OutputFolder})
    stages = (*PLANNING, *stages_of(recipe))
    check_order(stages, given)
    without_trace = [stage for stage in stages if stage.name != "trace"]
    with pytest.raises(ValueError, match="stage 'lower for onnx' needs Traced"):
        check_order(without_trace, given)
