"""Rules for edits: true targets pass, sources fail, and PSNR counts the pixels of its region."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from microforge.data.world.edits import OPERATIONS, edited_region, sample_edit
from microforge.data.world.renderer import render
from microforge.data.world.scenes import sample_scene
from microforge.errors import DataError
from microforge.evaluation.edit_judge import completed, composited, instruction_followed, region_psnr, shows
from microforge.evaluation.generation import to_uint8_images
from microforge.evaluation.oracle.detector import detect


@pytest.mark.parametrize("operation", OPERATIONS)
def test_instruction_followed_passes_the_target_and_fails_the_source(operation: str) -> None:
    rng = np.random.default_rng(0)
    edits = [sample_edit(rng, operation) for _ in range(12)]
    sources, targets = (
        [detect(image) for image in to_uint8_images(render(scenes, 160, 160))]
        for scenes in ([one.source for one in edits], [one.target for one in edits])
    )
    assert sum(map(instruction_followed, edits, targets)) >= 11
    assert not any(map(instruction_followed, edits, sources))


def test_completed_requires_the_masked_object_at_its_place() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        scene = sample_scene(rng, "two")
        masked, other = scene.objects
        image = to_uint8_images(render([scene], 160, 160))[0]
        bare = type(scene)(scene.background, scene.background_rgb, (other,), "single", None)
        without = to_uint8_images(render([bare], 160, 160))[0]
        assert completed(masked, detect(image)) and shows(scene, detect(image))
        assert not completed(masked, detect(without)) and not shows(scene, detect(without))


def test_region_psnr_counts_the_region_alone() -> None:
    images, references = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    images[:, :, :2] = 0.1  # 20 dB where it differs
    region = torch.zeros(2, 1, 4, 4)
    region[0, :, :2] = region[1, :, 2:] = 1.0
    levels = region_psnr(images, references, region)
    assert levels[0] == pytest.approx(20.0, abs=1e-5) and math.isinf(levels[1])
    assert math.isnan(region_psnr(images, references, torch.zeros(2, 1, 4, 4))[0])
    with pytest.raises(DataError, match="do not match"):
        region_psnr(images, references, region[:1])


def test_composited_preserves_the_exact_source_outside_the_region() -> None:
    edit = sample_edit(np.random.default_rng(2), "recolor")
    source, target = render([edit.source, edit.target], 64, 64)[:, None]
    region = edited_region(edit, 64, 64)[None]
    result = composited(torch.rand(1, 3, 64, 64), source, region)
    assert torch.equal(result[(region == 0).expand_as(result)], source[(region == 0).expand_as(result)])
    assert torch.equal(composited(target, source, region), target), "the region holds all that changes"
