"""A checkpoint through the runtime: torch modules behind its sessions make the images of the pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from microforge.components.networks import checkpoint_tasks, open_checkpoint
from microforge.errors import BundleError
from microforge.pipeline import MicroForgePipeline
from microforge_runtimes import Request
from microforge_runtimes.editor import Editor
from microforge_runtimes.sampler import Step

SOURCE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 1, 64, 64)
MASK[..., 8:40, 16:50] = 1.0


@pytest.fixture(scope="module")
def pipeline(editing_checkpoint: Path) -> MicroForgePipeline:
    return MicroForgePipeline.from_pretrained(editing_checkpoint)


@pytest.fixture(scope="module")
def editor(editing_checkpoint: Path, pipeline: MicroForgePipeline) -> Editor:
    bundle, opener = open_checkpoint(editing_checkpoint, None, pipeline)
    return Editor(bundle, "torch", keep_loaded=True, opener=opener)


def test_every_task_of_a_checkpoint_is_the_pipelines_own(
    pipeline: MicroForgePipeline, editor: Editor
) -> None:
    source, mask = SOURCE.numpy(), MASK.numpy()
    pairs = {
        "generate": (pipeline.text2img("a red circle", seed=4), Request("a red circle", seed=4)),
        "edit": (
            pipeline.edit(SOURCE, "a red circle", seed=4),
            Request("a red circle", "edit", source, seed=4),
        ),
        "inpaint": (
            pipeline.inpaint(SOURCE, MASK, seed=4),
            Request(None, "inpaint", source, mask, seed=4),
        ),
        "vary": (
            pipeline.vary(SOURCE, "a red circle", 0.75, seed=4),
            Request("a red circle", "vary", source, seed=4, strength=0.75),
        ),
    }
    for name, (expected, request) in pairs.items():
        image = editor.run(request).float_image
        assert image.std() > 0.01, f"{name}: a blank image would prove nothing"
        np.testing.assert_allclose(image, expected.numpy(), atol=2e-5, err_msg=name)


def test_a_lower_strength_runs_fewer_steps_and_stays_nearer_to_the_image(editor: Editor) -> None:
    known = editor.encode(editor.check(Request("a red circle", "vary", SOURCE.numpy(), strength=1.0))).known
    assert known is not None
    counts, distances = [], []
    for strength in (0.25, 0.5, 0.75, 1.0):
        steps: list[Step] = []
        result = editor.run(Request("a red circle", "vary", SOURCE.numpy(), strength=strength), steps.append)
        counts.append(len(steps))
        distances.append(float(np.square(steps[0].input - known).mean()))
        assert result.strength == strength and result.steps == 4
    assert counts == [1, 2, 3, 4]
    assert distances == sorted(distances), "the start is noisier, the higher the strength"


def test_full_strength_starts_from_noise_alone(editor: Editor) -> None:
    full = editor.run(Request("a red circle", "vary", SOURCE.numpy(), seed=9, strength=1.0))
    np.testing.assert_array_equal(full.image, editor.generate("a red circle", seed=9).image)


def test_the_tasks_of_a_checkpoint_are_read_without_its_weights(
    editing_checkpoint: Path, tmp_path: Path, editor: Editor
) -> None:
    (tmp_path / "config.json").write_bytes((editing_checkpoint / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert checkpoint_tasks(tmp_path) == editor.manifest.tasks


def test_a_task_that_the_checkpoint_lacks_is_refused(checkpoint: Path) -> None:
    bundle, opener = open_checkpoint(checkpoint)
    with pytest.raises(BundleError, match="cannot inpaint; its tasks: generate, vary"):
        Editor(bundle, "torch", opener=opener).check(Request(None, "inpaint", SOURCE.numpy(), MASK.numpy()))
