"""Drawings that miss their captions are replaced by such as don't; verdicts are the oracle's, and made once."""

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
    agrees,
    keep_faithful,
    kinds,
    stand_ins,
    verdicts,
)
from microforge.training.distillation.teacher import Teacher
from microforge.training.distillation.trajectory_cache import (
    CacheIdentity,
    Drawings,
    Shard,
    shard_path,
    verdicts_path,
    write_shard,
)

ROWS, PX = 4, 128
IDENTITY = CacheIdentity("teacher", "1 1", "128x128", "data", 0, "fp32")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    for module in (trajectory_cache, rejection_sampling):
        monkeypatch.setattr(module, "CHUNK", ROWS)
    yield


@pytest.fixture
def teacher(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Teacher:
    """A teacher whose latents are the images themselves, and who reads whole captions."""
    found = Teacher(read_checkpoint(checkpoint), "cpu")
    found.spec = replace(found.spec, text_encoder=replace(found.spec.text_encoder, max_length=64))
    monkeypatch.setattr(found.vae, "decode", lambda latent: latent)
    monkeypatch.setattr(found.vae, "denormalize", lambda latent: latent)
    return found


def shard_of(teacher: Teacher, wrong: tuple[int, ...]) -> Shard:
    """``ROWS`` true renders of their captions; the rows ``wrong`` are blank."""
    rng = np.random.default_rng(4)
    scenes = [sample_scene(rng, kind) for kind in tuple(KINDS)[:ROWS]]
    images = render(scenes, PX, PX)
    images[list(wrong)] = 0.5
    ids = teacher.ids([caption(scene, rng) for scene in scenes], "generate")
    return Shard(images[:, None].expand(-1, 3, -1, -1, -1), images, ids)


def test_verdicts_are_those_of_the_oracle_on_the_last_point(teacher: Teacher) -> None:
    assert verdicts(teacher, "generate", shard_of(teacher, wrong=(1, 3))).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_verdicts_of_a_caption_that_was_cut_before_its_shape_are_no(teacher: Teacher) -> None:
    shard = shard_of(teacher, wrong=())
    ids = shard.ids.clone()
    ids[2, 3:] = 0
    assert verdicts(teacher, "generate", replace(shard, ids=ids)).tolist() == [True, True, False, True]


def test_keep_faithful_lets_others_stand_in_and_judges_a_shard_once(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shard_path(tmp_path, "generate", 0)
    write_shard(path, shard_of(teacher, wrong=(1,)), IDENTITY)
    drawings = Drawings([path], ROWS, 2)
    assert keep_faithful(teacher, {"generate": drawings}, tmp_path, Console(quiet=True)) == {"generate": 3}
    assert drawings.stand_ins is not None and 1 not in drawings.stand_ins.tolist()
    assert float(drawings.take([1]).points[:, -1].std()) > 0.01
    monkeypatch.setattr(rejection_sampling, "verdicts", lambda *_: pytest.fail("judged again"))
    again = {"generate": Drawings([path], ROWS, 2)}
    assert keep_faithful(teacher, again, tmp_path, Console(quiet=True)) == {"generate": 3}
    write_shard(path, shard_of(teacher, wrong=()), IDENTITY)
    assert not verdicts_path(path).exists(), "verdicts of drawings that are gone"


def edits_of(teacher: Teacher) -> Shard:
    """``ROWS`` edits of as many operations, whose drawings are the true results."""
    rng = np.random.default_rng(8)
    edits = [sample_edit(rng, operation) for operation in ("recolor", "move", "add", "background")]
    sources, targets = (
        render([getattr(one, name) for one in edits], PX, PX) for name in ("source", "target")
    )
    ids = teacher.ids([one.instruction for one in edits], "edit")
    return Shard(targets[:, None].expand(-1, 3, -1, -1, -1), targets, ids, sources)


def test_verdicts_of_edits_are_yes_for_the_true_results_and_no_for_sources_left_as_they_were(
    teacher: Teacher,
) -> None:
    shard = edits_of(teacher)
    assert shard.source is not None
    assert verdicts(teacher, "edit", shard).all()
    as_before = replace(shard, points=shard.source[:, None].expand(-1, 3, -1, -1, -1))
    assert not verdicts(teacher, "edit", as_before).any()


def test_agrees_leaves_the_place_of_what_is_new_open_and_no_other() -> None:
    def at(x: float, name: str) -> DetectedObject:
        return DetectedObject(name, "red", x, 0.5, 0.1, 1.0, (0, 0, 1, 1))

    def seen(*objects: DetectedObject, background: str = "white") -> Detection:
        return Detection(background, (1.0, 1.0, 1.0), objects)

    before, wanted = seen(at(0.3, "ring")), seen(at(0.3, "ring"), at(0.7, "star"))
    assert agrees(seen(at(0.3, "ring"), at(0.1, "star")), wanted, before)
    assert not agrees(seen(at(0.6, "ring"), at(0.7, "star")), wanted, before)
    assert not agrees(seen(at(0.3, "ring"), at(0.7, "star"), background="blue"), wanted, before)
    assert not agrees(seen(at(0.3, "ring"), at(0.7, "star"), at(0.1, "star")), wanted, before)
    assert not agrees(seen(at(0.3, "ring"), at(0.1, "star")), wanted, wanted), "a hole is filled where it is"


def test_kinds_of_edits_are_their_verbs(teacher: Teacher) -> None:
    ids = teacher.ids(["Make the ring red", "make it blue", "remove the star"], "edit")
    assert kinds(teacher, "edit", ids) == ["make", "make", "remove"]


def test_stand_ins_are_of_the_same_kind_where_there_is_one() -> None:
    good = np.array([True, False, True, False, False])
    assert stand_ins(good, ["a", "b", "b", "a", "c"]).tolist() == [0, 2, 2, 0, 0]


def test_stand_ins_refuse_a_teacher_that_draws_nothing_right() -> None:
    with pytest.raises(DataError, match="train the teacher further"):
        stand_ins(np.zeros(3, dtype=bool), ["a", "a", "a"])
