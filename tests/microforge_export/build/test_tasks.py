"""Bundles of four tasks: one copy of the weights, every task equal to the torch pipeline, every task verified."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import Size
from microforge.bundle.targets import TargetName
from microforge.pipeline import MicroForgePipeline
from microforge.spec import TASKS
from microforge_export.build.builder import build, plan
from microforge_export.build.dry_run_view import shared_bytes
from microforge_export.checks import golden, test_images
from microforge_export.checks.inspect import target_bytes
from microforge_export.checks.parity import measure
from microforge_export.checks.reference import record
from microforge_export.checks.verify import verify
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel, trace
from microforge_export.providers.microforge import read_model
from microforge_export.recipes.build_recipe import make_recipe
from microforge_export.targets.onnx import lower
from microforge_runtimes import Editor
from microforge_runtimes.engines.coreml import MilSession

SIZE = Size(height=64, width=64)
ALL = (*TASKS, "vary")


def _pipeline(checkpoint: Path) -> MicroForgePipeline:
    return MicroForgePipeline.from_pretrained(checkpoint)


def test_a_checkpoint_of_four_tasks_gets_both_layouts_by_default(editing_bundle: Path) -> None:
    manifest = load_bundle(editing_bundle).manifest
    assert tuple(manifest.tasks) == ALL and set(manifest.tokenizers["prompt"].prefix) == set(ALL)
    roles = ["text_encoder", "denoiser", "denoiser_edit", "vae_decoder", "vae_encoder"]
    assert list(manifest.components) == roles
    both = (manifest.components[key] for key in ("denoiser", "denoiser_edit"))
    generate, edit = ([spec.name for spec in item.inputs] for item in both)
    assert edit == [*generate, "source"]


def test_a_build_of_generate_alone_has_no_edit_layout(editing_checkpoint: Path) -> None:
    recipe = make_recipe(target="onnx", precision="fp32", sizes=(), tasks="generate")
    planned = plan(recipe, lambda: read_model(editing_checkpoint))
    assert "denoiser_edit" not in {item.key for item in planned.components}
    assert {request.task for request in planned.model.requests} == {"generate"}


def test_a_build_of_edit_alone_has_no_generate_layout(editing_checkpoint: Path, tmp_path: Path) -> None:
    recipe = make_recipe(target="onnx", precision="fp32", sizes=(), tasks="edit")
    build(recipe, lambda: read_model(editing_checkpoint), tmp_path / "edit.mfb")
    manifest = load_bundle(tmp_path / "edit.mfb").manifest
    assert tuple(manifest.tasks) == ("edit",) and "denoiser" not in manifest.components
    assert [item.task for item in manifest.golden.trajectories] == ["edit"]
    assert verify(load_bundle(tmp_path / "edit.mfb")).problems == ()


def test_every_task_is_within_its_threshold_and_recorded(editing_bundle: Path) -> None:
    target = load_bundle(editing_bundle).manifest.targets["onnx"]
    assert set(target.tasks) == set(ALL) and target.image is not None
    assert all(value.max_abs_255 < 0.5 and value.threshold == 2 for value in target.tasks.values())
    assert target.image.max_abs_255 == max(value.max_abs_255 for value in target.tasks.values())
    assert target.parity["denoiser_edit"].psnr_db > 90 and target.parity["vae_encoder"].psnr_db > 90


def test_every_task_with_an_image_equals_the_torch_pipeline(
    editing_bundle: Path, editing_checkpoint: Path
) -> None:
    pipeline, seed = _pipeline(editing_checkpoint), 2**33 + 1
    torch.manual_seed(1)
    source, small = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 16, 16)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 10:40, 20:50] = 1
    with Editor(editing_bundle, keep_loaded=True) as editor:
        pairs = {
            "edit": (pipeline.edit(source, "a red circle", seed=seed), editor.edit(source.numpy(), "a red circle", seed)),
            "no prompt": (pipeline.inpaint(source, mask, seed=seed), editor.inpaint(source.numpy(), mask.numpy(), None, seed)),
            "vary": (pipeline.vary(source, "a red circle", 0.75, seed=seed), editor.vary(source.numpy(), "a red circle", 0.75, seed)),
            "inpaint": (
                pipeline.inpaint(source, mask, "a blue square", seed=seed),
                editor.inpaint(source.numpy(), mask.numpy(), "a blue square", seed),
            ),
            "edit of a part": (
                pipeline.edit(source, "a red circle", seed=seed, mask=mask),
                editor.edit(source.numpy(), "a red circle", seed, mask=mask.numpy()),
            ),
            "4x": (pipeline.super_resolve(small, 4, seed=seed), editor.super_resolve(small.numpy(), None, seed)),
            "2 steps": (
                pipeline.edit(source, "a red circle", steps=2, seed=seed), editor.edit(source.numpy(), "a red circle", seed, 2),
            ),
        }  # fmt: skip
    images = []
    for name, (expected, found) in pairs.items():
        pixels = np.rint(expected[0].permute(1, 2, 0).numpy() * 255)
        assert pixels.std() > 1, f"{name}: a blank image would prove nothing"
        assert np.abs(found.image - pixels).max() <= 2, name
        images.append(pixels)
    assert all(np.abs(one - images[0]).max() > 5 for one in images[1:]), "prompts, masks and steps matter"
    outside = mask[0, 0].numpy() == 0
    kept = np.rint(source[0].permute(1, 2, 0).numpy() * 255)[outside]
    for name in ("inpaint", "edit of a part"):
        assert np.array_equal(pairs[name][1].image[outside], kept)


def test_golden_trajectories_hold_what_a_device_needs_to_replay_every_task(editing_bundle: Path) -> None:
    bundle = load_bundle(editing_bundle)
    found = {
        item.task: golden.read_trajectory(bundle.checked(item.file), item.renamed)
        for item in bundle.manifest.golden.trajectories
    }
    assert set(found) == set(ALL)
    steps, tensors = 4, found["generate"]
    assert tensors["u"].shape == tensors["m"].shape == (steps, 4, 2, 2) and tensors["state.plan"].shape == (
        steps,
        4,
        64,
    )
    assert tensors["tokens.prompt.ids"].shape == tensors["other_tokens.prompt.mask"].shape == (1, 16)
    assert "source" not in found["generate"]
    assert found["super-resolve"]["source"].shape == (1, 3, 32, 32)
    assert found["edit"]["known"].shape == found["edit"]["noise"].shape == (1, 4, 2, 2)
    mask, inpaint = found["inpaint"]["mask"], found["inpaint"]
    assert 0 < mask.mean() < 1 and found["vary"]["u"].shape[0] == 2
    np.testing.assert_array_equal((inpaint["image"] * (1 - mask)), inpaint["source"] * (1 - mask))
    cases = golden.read_cases(bundle.checked(bundle.manifest.golden.components["denoiser_edit"]))
    assert {bool(case.inputs["source"].any()) for case in cases} == {True, False}, "with and without a source"


def test_verify_covers_every_task(editing_bundle: Path, tmp_path: Path) -> None:
    result = verify(load_bundle(editing_bundle))
    assert result.problems == () and len(result.images["onnx"]) == len(ALL)
    copy = tmp_path / "odd.mfb"
    shutil.copytree(editing_bundle, copy)
    text = (copy / "manifest.json").read_text("utf-8")
    values = json.loads(text)
    values["targets"]["onnx"]["tasks"]["inpaint"]["threshold"] = 0.0
    (copy / "manifest.json").write_text(json.dumps(values), "utf-8")
    [problem] = verify(load_bundle(copy)).problems
    assert "inpaint by" in problem and "allowed: 0/255" in problem


def _bytes(checkpoint: Path, out: Path, target: TargetName, tasks: str | None) -> int:
    recipe = make_recipe(target=target, precision="fp32", sizes=(), tasks=tasks)
    build(recipe, lambda: read_model(checkpoint), out)
    return target_bytes(load_bundle(out).manifest.targets[target])


def test_the_second_layout_stores_no_weight_again(
    editing_bundle: Path, editing_checkpoint: Path, tmp_path: Path
) -> None:
    """The miniature's graphs outweigh its weights; the shared file tells what the weights cost."""
    _bytes(editing_checkpoint, tmp_path / "one.mfb", "onnx", "generate")
    pair = (editing_bundle, tmp_path / "one.mfb")
    four, one = ((folder / "onnx" / "weights.bin").stat().st_size for folder in pair)
    tokens, width = 2 * 2 * 2, 64
    positions = 4 * tokens * width + 4 * 4 * tokens * tokens  # float32 sinusoids and scan orders of 2N tokens
    assert four - one <= positions + 64 * 8
    model = onnx.load(str(editing_bundle / "onnx" / "denoiser_edit.onnx"), load_external_data=False)
    own = sum(len(tensor.raw_data) for tensor in model.graph.initializer if not tensor.external_data)
    assert own < 64 * 1024


def test_a_layout_adds_no_parameter(editing_checkpoint: Path) -> None:
    recipe = make_recipe(target="onnx", precision="fp32", sizes=(), tasks=None)
    everything = plan(recipe, lambda: read_model(editing_checkpoint)).components
    without = tuple(item for item in everything if item.role != "denoiser_edit")
    assert shared_bytes(everything) == shared_bytes(without)


def test_the_fixed_images_are_pictures_with_a_mask_off_the_grid(editing_bundle: Path) -> None:
    manifest = load_bundle(editing_bundle).manifest
    requests = {task: test_images.test_request(manifest, task, "", 0, SIZE) for task in ALL}
    assert requests["generate"].image is None and requests["edit"].mask is None
    edit, inpaint, larger = (requests[task] for task in ("edit", "inpaint", "super-resolve"))
    assert edit.image is not None and inpaint.mask is not None and larger.image is not None
    assert edit.image.shape == (1, 3, 64, 64) and larger.image.shape == (1, 3, 32, 32)
    assert edit.image.min() >= 0 and edit.image.max() <= 1 and edit.image.std() > 0.1
    rows = np.flatnonzero(inpaint.mask[0, 0].any(1))
    assert rows[0] % 32 and (rows[-1] + 1) % 32


def _layouts(checkpoint: Path) -> tuple[SourceModel, list[SourceComponent]]:
    """The model, and both layouts of its denoiser."""
    model = read_model(checkpoint)
    return model, [item for item in model.provider.components([SIZE], model.tasks) if "denoiser" in item.role]


@pytest.mark.slow
def test_executorch_methods_of_both_layouts_share_their_constants(
    editing_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("executorch")
    from microforge_export.targets.executorch.lower import lower_all
    from microforge_runtimes.engines.executorch import ExecutorchSession

    model, parts = _layouts(editing_checkpoint)
    sizes = []
    for name, some in (("one", parts[:1]), ("both", parts)):
        (tmp_path / name).mkdir()
        made = lower_all(some, {item.key: trace(item) for item in some}).write(tmp_path / name)
        sizes.append(made.files["denoiser"].bytes)
    assert made.files["denoiser"] == made.files["denoiser_edit"], "two methods of one program"
    assert all(item.delegates == 1 for item in made.coverage.values())
    weights = made.memory["denoiser"].weights
    assert sizes[1] - sizes[0] < 0.5 * weights, (sizes, weights)
    path = tmp_path / "both" / made.files["denoiser_edit"].path
    cases = record(
        model,
        model.provider.components([SIZE], model.tasks),
        [SIZE],
        [SampleRequest("a red circle", 0, "edit")],
        model.tasks,
    ).cases
    session = ExecutorchSession(path, "denoiser_edit", parts[1].entry(), 1)
    assert measure(session, cases["denoiser_edit"], threshold_db=60).psnr_db > 90


@pytest.mark.slow
def test_four_tasks_make_the_shipped_model_at_most_3_percent_larger(tmp_path: Path) -> None:
    """In ONNX: the second layout's graph, its positions and its scan orders, beside weights that are stored once."""
    model = read_model(None)
    parts = model.provider.components([model.native_size], ("generate", "edit"))
    programs = {item.key: trace(item) for item in parts}
    sizes = []
    for name, some in (("one", [item for item in parts if item.role != "denoiser_edit"]), ("four", parts)):
        (tmp_path / name).mkdir()
        made = lower.lower_all(some, programs).write(tmp_path / name)
        sizes.append(sum(entry.bytes for entry in (*made.files.values(), *made.shared_files)))
    assert sizes[0] < sizes[1] <= 1.03 * sizes[0], sizes


@pytest.mark.slow
def test_core_ml_layouts_are_functions_of_one_package(editing_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    from microforge_export.targets.coreml.target import RECIPES, lower_all

    model, parts = _layouts(editing_checkpoint)
    artefacts = lower_all(parts, {item.key: trace(item) for item in parts}, RECIPES["fp16"])
    artefacts.lint()
    made = artefacts.write(tmp_path)
    assert [path.name for path in (tmp_path / "coreml").iterdir()] == ["denoiser.mlpackage"]
    weights = sum(entry.bytes for entry in made.parts["denoiser"] if entry.path.endswith(".bin"))
    assert weights < 1.3 * parts[0].weight_bytes() / 2, "half precision, once"
    cases = record(
        model,
        model.provider.components([SIZE], model.tasks),
        [SIZE],
        [SampleRequest("a red circle", 0, "edit")],
        model.tasks,
    ).cases
    path = tmp_path / made.files["denoiser_edit"].path
    session = MilSession(path, parts[1].entry(), "denoiser_edit")
    assert measure(session, cases["denoiser_edit"], threshold_db=40).psnr_db > 40
    MilSession(path, parts[0].entry(), "denoiser").close()
