"""Evaluation of the tasks with a source image: true targets reach the ceiling, and unchanged sources fail."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pytest
import torch
from torch import Tensor

from microforge.data.edit_examples import Triples
from microforge.data.world.edits import OPERATIONS, Edit, edited_box, sample_edit
from microforge.errors import DataError
from microforge.evaluation.edit_judge import changed_region
from microforge.evaluation.editing import (
    MAX_DB,
    TaskEvaluation,
    evaluate_edit,
    evaluate_inpaint,
    evaluate_super_resolve,
    evaluate_task,
)

SETTINGS = TaskEvaluation(count=12, size=(128, 128), batch=5)


def _target(examples: Triples, seed: int) -> Tensor:
    return examples.targets


def _source(examples: Triples, seed: int) -> Tensor:
    return examples.sources


def _faint_error(examples: Triples, seed: int) -> Tensor:
    return (examples.targets + 0.03).clamp(0, 1)


def test_edits_that_equal_their_true_targets_reach_the_ceiling() -> None:
    scores = evaluate_edit(_target, SETTINGS)
    assert scores.followed.total == 12 and scores.followed.correct >= 11
    assert set(scores.operations) == set(OPERATIONS)
    assert scores.psnr_db.inside == scores.psnr_db.outside == MAX_DB


def test_unchanged_sources_fail_inside_the_edited_region_and_not_outside() -> None:
    scores = evaluate_edit(_source, SETTINGS)
    assert scores.followed.correct == 0
    assert scores.psnr_db.outside == MAX_DB
    assert scores.psnr_db.inside is not None and scores.psnr_db.inside < 20.0


def test_compositing_removes_a_faint_error_outside_the_edited_region() -> None:
    levels = evaluate_edit(_faint_error, SETTINGS).psnr_db
    assert levels.outside is not None and levels.outside_composited is not None
    assert levels.outside + 3.0 < levels.outside_composited, levels


def test_psnr_by_boxes_ignores_errors_within_the_boxes() -> None:
    """An error that fills the boxes is outside of the changed pixels (corners), but not outside of the boxes."""

    def generate(examples: Triples, seed: int) -> Tensor:
        boxes = torch.stack([edited_box(one, 128, 128) for one in _edits(examples)])
        return torch.where(boxes > 0, 1.0 - examples.targets, examples.targets)

    scores = evaluate_edit(generate, SETTINGS)
    assert scores.psnr_db_box.outside == MAX_DB
    assert scores.psnr_db_box.inside is not None and scores.psnr_db_box.inside < 20.0
    assert scores.psnr_db.outside is not None and scores.psnr_db.outside < 60.0
    ceiling = evaluate_edit(_target, SETTINGS).psnr_db_box
    assert ceiling.outside == ceiling.outside_composited == MAX_DB


def _edits(examples: Triples) -> list[Edit]:
    """The edits of ``SETTINGS`` that ``examples`` were rendered from."""
    rng = np.random.default_rng(SETTINGS.seed)
    edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), SETTINGS.count)]
    return [next(one for one in edits if one.instruction == text) for text in examples.texts]


def test_masked_edits_get_their_mask_and_are_composited_by_it() -> None:
    shares: list[float] = []

    def generate(examples: Triples, seed: int) -> Tensor:
        assert examples.masks is not None and examples.masks.shape[1:] == (1, 128, 128)
        changed = (examples.sources != examples.targets).any(1, keepdim=True)
        assert bool((examples.masks[changed] == 1).all())
        shares.append(float(examples.masks.mean()))
        return _faint_error(examples, seed)

    levels = evaluate_edit(generate, replace(SETTINGS, masked=True)).psnr_db
    assert max(shares) < 0.7, "a mask has a small margin only"
    assert levels.outside is not None and levels.outside_composited is not None
    assert levels.outside_composited > levels.outside + 8.0, levels


def test_inpainting_is_judged_by_the_completed_object_and_by_preserved_pixels() -> None:
    scores = evaluate_inpaint(_target, SETTINGS)
    assert scores.completed.correct >= 11 and scores.preserved_exactly
    assert evaluate_inpaint(_source, SETTINGS).completed.correct <= 2, "grey pixels are no object"
    darker = evaluate_inpaint(lambda examples, seed: examples.targets * 0.99, SETTINGS)
    assert not darker.preserved_exactly


def test_super_resolution_is_compared_with_bicubic_upsampling() -> None:
    assert evaluate_super_resolve(_source, SETTINGS).gain_db == 0.0
    levels = evaluate_super_resolve(_target, SETTINGS).psnr_db
    assert levels.model == MAX_DB and levels.bicubic is not None and levels.bicubic < 40.0


def test_every_image_has_its_own_seed() -> None:
    seeds: list[tuple[int, int]] = []

    def generate(examples: Triples, seed: int) -> Tensor:
        seeds.append((seed, len(examples.targets)))
        return examples.targets

    evaluate_task("super-resolve", generate, SETTINGS)
    assert seeds == [(0, 5), (5, 5), (10, 2)]


def test_tasks_and_counts_that_cannot_be_evaluated_are_refused() -> None:
    with pytest.raises(DataError, match="unknown task 'generate'; allowed: edit, inpaint, super-resolve"):
        evaluate_task("generate", _target, SETTINGS)
    with pytest.raises(DataError, match="number of examples is 0; allowed: 1 or more"):
        evaluate_task("edit", _target, TaskEvaluation(0, (128, 128)))


def test_changed_region_holds_the_change_and_little_more() -> None:
    source = torch.zeros(1, 3, 100, 100)
    image = source.clone()
    image[:, :, 40:60, 40:60] = 0.5
    region = changed_region(image, source)
    assert bool(region[:, :, 40:60, 40:60].all()) and float(region.sum()) < 30 * 30
