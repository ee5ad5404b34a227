"""Rejected samples are replaced by accepted ones of their kind; verdicts are the oracle's, and made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.world.captions import caption
from microforge.data.world.edits import sample_edit
from microforge.data.world.renderer import render
from microforge.data.world.scenes import KINDS, sample_scene
from microforge.errors import DataError
from microforge.evaluation.oracle.detector import DetectedObject, Detection
from microforge.training.distillation import rejection_sampling, trajectory_cache
from microforge.training.distillation.rejection_sampling import (
    filter_samples,
    prompt_kinds,
    replacements,
    shows_result,
    verdicts,
)
from microforge.training.distillation.teacher import FrozenTeacher
from microforge.training.distillation.trajectory_cache import (
    CacheIdentity,
    TrajectoryBatch,
    TrajectoryDataset,
    cache_file,
    verdicts_file,
    write_cache_file,
)

ROWS, PX = 4, 128
IDENTITY = CacheIdentity("teacher", "1 1", "128x128", "data", 0, "fp32")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    for module in (trajectory_cache, rejection_sampling):
        monkeypatch.setattr(module, "FILE_ROWS", ROWS)
    yield


@pytest.fixture
def teacher(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> FrozenTeacher:
    """A teacher whose latents are the images themselves, and which reads whole captions."""
    frozen = FrozenTeacher(read_checkpoint(checkpoint), "cpu")
    frozen.spec = replace(frozen.spec, text_encoder=replace(frozen.spec.text_encoder, max_length=64))
    monkeypatch.setattr(frozen.vae, "decode", lambda latent: latent)
    monkeypatch.setattr(frozen.vae, "denormalize", lambda latent: latent)
    return frozen


def renders(teacher: FrozenTeacher, wrong: tuple[int, ...]) -> TrajectoryBatch:
    """``ROWS`` true renders of their captions; the rows ``wrong`` are blank."""
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, kind) for kind in tuple(KINDS)[:ROWS]]
    images = render(scenes, PX, PX)
    images[list(wrong)] = 0.5
    ids = teacher.ids([caption(scene, rng) for scene in scenes], "generate")
    return TrajectoryBatch(images[:, None].expand(-1, 3, -1, -1, -1), images, ids)


def test_verdicts_are_those_of_the_oracle_on_the_last_point(teacher: FrozenTeacher) -> None:
    assert verdicts(teacher, "generate", renders(teacher, wrong=(1, 3))).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_verdicts_of_a_caption_truncated_before_its_shape_are_negative(teacher: FrozenTeacher) -> None:
    trajectories = renders(teacher, wrong=())
    ids = trajectories.ids.clone()
    ids[2, 3:] = 0
    assert verdicts(teacher, "generate", replace(trajectories, ids=ids)).tolist() == [True, True, False, True]


def test_filter_samples_replaces_rejected_ones_and_judges_a_file_once(
    teacher: FrozenTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache_file(tmp_path, "generate", 0)
    write_cache_file(path, renders(teacher, wrong=(1,)), IDENTITY)
    dataset = TrajectoryDataset([path], ROWS, 2)
    assert filter_samples(teacher, {"generate": dataset}, tmp_path, Console(quiet=True)) == {"generate": 3}
    assert dataset.replacements is not None and 1 not in dataset.replacements.tolist()
    assert float(dataset.take([1]).points[:, -1].std()) > 0.01
    monkeypatch.setattr(rejection_sampling, "verdicts", lambda *_: pytest.fail("judged again"))
    again = {"generate": TrajectoryDataset([path], ROWS, 2)}
    assert filter_samples(teacher, again, tmp_path, Console(quiet=True)) == {"generate": 3}
    write_cache_file(path, renders(teacher, wrong=()), IDENTITY)
    assert not verdicts_file(path).exists(), "verdicts of replaced trajectories"


def edits_of(teacher: FrozenTeacher) -> TrajectoryBatch:
    """``ROWS`` edits of as many operations, whose samples are the true results."""
    rng = np.random.default_rng(8)
    edits = [sample_edit(rng, operation) for operation in ("recolor", "move", "add", "background")]
    sources, targets = (
        render([getattr(one, name) for one in edits], PX, PX) for name in ("source", "target")
    )
    ids = teacher.ids([one.instruction for one in edits], "edit")
    return TrajectoryBatch(targets[:, None].expand(-1, 3, -1, -1, -1), targets, ids, sources)


def test_verdicts_of_edits_are_positive_for_true_results_and_negative_for_unchanged_sources(
    teacher: FrozenTeacher,
) -> None:
    trajectories = edits_of(teacher)
    assert trajectories.source is not None
    assert verdicts(teacher, "edit", trajectories).all()
    unchanged = replace(trajectories, points=trajectories.source[:, None].expand(-1, 3, -1, -1, -1))
    assert not verdicts(teacher, "edit", unchanged).any()


def test_shows_result_leaves_only_the_place_of_new_objects_open() -> None:
    def at(x: float, name: str) -> DetectedObject:
        return DetectedObject(name, "red", x, 0.5, 0.1, 1.0, (0, 0, 1, 1))

    def detection(*objects: DetectedObject, background: str = "white") -> Detection:
        return Detection(background, (1.0, 1.0, 1.0), objects)

    source, truth = detection(at(0.3, "ring")), detection(at(0.3, "ring"), at(0.7, "star"))
    assert shows_result(detection(at(0.3, "ring"), at(0.1, "star")), truth, source)
    assert not shows_result(detection(at(0.6, "ring"), at(0.7, "star")), truth, source)
    assert not shows_result(detection(at(0.3, "ring"), at(0.7, "star"), background="blue"), truth, source)
    assert not shows_result(detection(at(0.3, "ring"), at(0.7, "star"), at(0.1, "star")), truth, source)
    assert not shows_result(detection(at(0.3, "ring"), at(0.1, "star")), truth, truth), (
        "an inpainted object is where the mask is"
    )


def test_kinds_of_edits_are_their_verbs(teacher: FrozenTeacher) -> None:
    ids = teacher.ids(["Make the ring red", "make it blue", "remove the star"], "edit")
    assert prompt_kinds(teacher, "edit", ids) == ["make", "make", "remove"]


def test_replacements_are_of_the_same_kind_where_there_is_one() -> None:
    accepted = np.array([True, False, True, False, False])
    assert replacements(accepted, ["a", "b", "b", "a", "c"]).tolist() == [0, 2, 2, 0, 0]


def test_replacements_refuse_a_teacher_without_an_accepted_sample() -> None:
    with pytest.raises(DataError, match="train the teacher further"):
        replacements(np.zeros(3, dtype=bool), ["a", "a", "a"])
