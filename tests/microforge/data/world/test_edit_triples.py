"""Examples of the tasks with a source image: a function of seed and step, independent of the requested rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microforge.data.edit_examples import FACTORS_BY_ZOOM, SOURCE_TASKS, downsampled, task_rng, upsampled
from microforge.data.world.edit_triples import SceneTriples, zoomed_crop
from microforge.data.world.edits import OPERATIONS, edited_box, edited_region, sample_edit
from microforge.data.world.renderer import render
from microforge.data.world.scenes import sample_scene
from microforge.errors import DataError

SIZE = (64, 96)


@pytest.mark.parametrize("task", SOURCE_TASKS)
def test_scene_triples_rows_are_those_of_the_whole_batch(task: str) -> None:
    source = SceneTriples()
    whole = source.triples(task, 3, 5, 6, range(6), SIZE, "cpu")
    part = source.triples(task, 3, 5, 6, [1, 4], SIZE, "cpu")
    assert whole.sources.shape == whole.targets.shape == (6, 3, *SIZE)
    assert torch.equal(part.sources, whole.sources[[1, 4]])
    assert torch.equal(part.targets, whole.targets[[1, 4]])
    assert part.texts == (whole.texts[1], whole.texts[4])
    other = source.triples(task, 3, 6, 6, range(6), SIZE, "cpu")
    assert not torch.equal(other.targets, whole.targets), "every step has examples of its own"


def test_scene_triples_of_an_edit_differ_between_source_and_target() -> None:
    batch = SceneTriples().triples("edit", 0, 0, 12, range(12), SIZE, "cpu")
    assert all(batch.texts)
    assert bool(((batch.sources - batch.targets).abs().amax((1, 2, 3)) > 0.05).all())


def test_scene_triples_of_inpainting_are_grey_in_the_mask_only() -> None:
    batch = SceneTriples().triples("inpaint", 0, 0, 8, range(8), SIZE, "cpu")
    assert batch.masks is not None and batch.masks.shape == (8, 1, *SIZE)
    masked = (batch.masks > 0).expand_as(batch.sources)
    assert bool((batch.sources[masked] == 0.5).all())
    assert torch.equal(batch.sources[~masked], batch.targets[~masked])


def test_scene_triples_of_super_resolution_are_upsamples_of_every_factor_some_without_a_caption() -> None:
    batch = SceneTriples().triples("super-resolve", 0, 0, 32, range(32), SIZE, "cpu")
    assert set(batch.factors) == {factor for factors in FACTORS_BY_ZOOM.values() for factor in factors}
    assert None in batch.texts and any(batch.texts)
    for source, target, factor in zip(batch.sources, batch.targets, batch.factors, strict=True):
        assert torch.equal(source[None], upsampled(downsampled(target[None], factor), factor))


def test_zoomed_crops_of_super_resolution_show_an_edge_of_an_image_of_twice_the_size() -> None:
    zooms = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng)
        image, zoom = zoomed_crop(scene, np.random.default_rng(seed), SIZE, "cpu")
        zooms.append(zoom)
        assert image.shape == (3, *SIZE) and float(image.std((1, 2)).max()) > 0.0
        whole = render([scene], zoom * SIZE[0], zoom * SIZE[1])[0]
        places = [
            (y, x)
            for y in range(whole.shape[1] - SIZE[0] + 1)
            for x in range(whole.shape[2] - SIZE[1] + 1)
            if torch.equal(whole[:, y, x], image[:, 0, 0])
        ]
        assert any(torch.equal(whole[:, y : y + SIZE[0], x : x + SIZE[1]], image) for y, x in places)
    assert set(zooms) == set(FACTORS_BY_ZOOM)


def test_task_rng_refuses_an_unknown_task() -> None:
    with pytest.raises(DataError, match="unknown task 'generate'; allowed: edit, inpaint, super-resolve"):
        task_rng("generate", 0, 0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_edited_region_holds_every_pixel_that_changes(operation: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        edit = sample_edit(rng, operation)
        before, after = render([edit.source, edit.target], *SIZE)
        region = edited_region(edit, *SIZE)
        assert region.shape == (1, *SIZE) and set(region.flatten().tolist()) == {0.0, 1.0}
        changed = (before - after).abs().amax(0, keepdim=True) > 0
        assert bool((region[changed] == 1).all()), edit.instruction
        box = edited_box(edit, *SIZE)
        assert bool((box >= region).all()), edit.instruction
        if operation in ("recolor", "remove") and edit.source.kind != "counting":
            rows, columns = (region[0].amax(1 - axis).nonzero()[[0, -1], 0] for axis in (0, 1))
            area = (rows[1] - rows[0] + 1) * (columns[1] - columns[0] + 1)
            assert box.sum() == area, "one object has the box around it"
        assert bool(box.all()) == (operation == "background")
