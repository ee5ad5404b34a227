"""Evaluating the tasks with a source: true targets reach the ceiling, doing nothing does not pass."""

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
from microforge.evaluation.editing import CAP_DB, EditRun, evaluate_task

RUN = EditRun(count=12, size=(128, 128), batch=5)


def _target(found: Triples, seed: int) -> Tensor:
    return found.targets


def _source(found: Triples, seed: int) -> Tensor:
    return found.sources


def test_evaluate_edit_of_true_targets_is_the_ceiling() -> None:
    found = evaluate_task("edit", _target, RUN)
    assert found["followed"]["total"] == 12 and found["followed"]["correct"] >= 11
    assert set(found["operations"]) == set(OPERATIONS)
    assert found["psnr_db"]["inside"] == found["psnr_db"]["outside"] == CAP_DB


def test_evaluate_edit_of_untouched_sources_fails_inside_and_not_outside() -> None:
    found = evaluate_task("edit", _source, RUN)
    assert found["followed"]["correct"] == 0
    assert found["psnr_db"]["outside"] == CAP_DB and found["psnr_db"]["inside"] < 20.0


def test_evaluate_edit_composites_away_a_faint_error_outside() -> None:
    found = evaluate_task("edit", lambda one, seed: (one.targets + 0.03).clamp(0, 1), RUN)
    levels = found["psnr_db"]
    assert levels["outside"] + 3.0 < levels["outside_composited"], levels


def test_evaluate_edit_measures_around_boxes_too() -> None:
    """What is wrong within the boxes alone is outside of what changes in their corners, and nowhere outside of them."""

    def draw(found: Triples, seed: int) -> Tensor:
        boxes = torch.stack([edited_box(one, 128, 128) for one in _asked(found)])
        return torch.where(boxes > 0, 1.0 - found.targets, found.targets)

    found = evaluate_task("edit", draw, RUN)
    assert found["psnr_db_box"]["outside"] == CAP_DB and found["psnr_db_box"]["inside"] < 20.0
    assert found["psnr_db"]["outside"] < 60.0
    only = evaluate_task("edit", _target, RUN)["psnr_db_box"]
    assert only["outside"] == only["outside_composited"] == CAP_DB


def _asked(found: Triples) -> list[Edit]:
    """The edits of ``RUN`` that ``found`` was rendered from."""
    rng = np.random.default_rng(RUN.seed)
    edits = [sample_edit(rng, name) for name in islice(cycle(OPERATIONS), RUN.count)]
    return [next(one for one in edits if one.instruction == text) for text in found.texts]


def test_evaluate_edit_with_masks_gives_them_and_composites_by_them() -> None:
    shares: list[float] = []

    def draw(found: Triples, seed: int) -> Tensor:
        assert found.masks is not None and found.masks.shape[1:] == (1, 128, 128)
        changed = (found.sources != found.targets).any(1, keepdim=True)
        assert bool((found.masks[changed] == 1).all())
        shares.append(float(found.masks.mean()))
        return (found.targets + 0.03).clamp(0, 1)

    levels = evaluate_task("edit", draw, replace(RUN, masked=True))["psnr_db"]
    assert max(shares) < 0.7, "a mask is no larger than it must be"
    assert levels["outside_composited"] > levels["outside"] + 8.0, levels


def test_evaluate_inpaint_sees_a_completed_object_and_touched_pixels() -> None:
    found = evaluate_task("inpaint", _target, RUN)
    assert found["completed"]["correct"] >= 11 and found["kept_bit_for_bit"]
    assert evaluate_task("inpaint", _source, RUN)["completed"]["correct"] <= 2, "a grey hole is no object"
    assert not evaluate_task("inpaint", lambda one, seed: one.targets * 0.99, RUN)["kept_bit_for_bit"]


def test_evaluate_super_resolve_measures_against_bicubic() -> None:
    assert evaluate_task("super-resolve", _source, RUN)["gain_db"] == 0.0
    found = evaluate_task("super-resolve", _target, RUN)
    assert found["psnr_db"]["model"] == CAP_DB and found["psnr_db"]["bicubic"] < 40.0


def test_evaluate_task_draws_every_image_with_its_own_seed() -> None:
    seeds: list[tuple[int, int]] = []

    def draw(found: Triples, seed: int) -> Tensor:
        seeds.append((seed, len(found.targets)))
        return found.targets

    evaluate_task("super-resolve", draw, RUN)
    assert seeds == [(0, 5), (5, 5), (10, 2)]


def test_evaluate_task_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(DataError, match="unknown task 'generate'; allowed: edit, inpaint, super-resolve"):
        evaluate_task("generate", _target, RUN)
    with pytest.raises(DataError, match="0 examples are asked for"):
        evaluate_task("edit", _target, EditRun(0, (128, 128)))


def test_changed_region_holds_the_change_and_little_more() -> None:
    source = torch.zeros(1, 3, 100, 100)
    image = source.clone()
    image[:, :, 40:60, 40:60] = 0.5
    region = changed_region(image, source)
    assert bool(region[:, :, 40:60, 40:60].all()) and float(region.sum()) < 30 * 30
