"""A student beside its teacher leaves out what both have, and reads as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from microforge.checkpoint import CONFIG, WEIGHTS, read_checkpoint
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline


@pytest.fixture
def teacher(pipeline: MicroForgePipeline, tmp_path: Path) -> Path:
    """A teacher, and in its folder ``student`` another backbone over it."""
    folder = tmp_path / "teacher"
    pipeline.save_pretrained(folder, torch.float16)
    student = MicroForgePipeline.from_pretrained(folder)
    with torch.no_grad():
        student.backbone.head.bias.add_(1.0)
    student.save_pretrained(folder / "student", torch.float16, base="..")
    return folder


def test_a_student_over_a_base_holds_only_what_differs_and_reads_whole(teacher: Path) -> None:
    assert sorted(path.name for path in (teacher / "student").iterdir()) == [CONFIG, WEIGHTS]
    own, base = read_checkpoint(teacher / "student"), read_checkpoint(teacher)
    assert own.tokenizer is not None and own.tensors.keys() == base.tensors.keys()
    differs = {name for name in own.tensors if not torch.equal(own.tensors[name], base.tensors[name])}
    assert differs == {"backbone.head.bias"} and own.sha256 != base.sha256
    size = (teacher / "student" / WEIGHTS).stat().st_size
    assert size < 0.6 * (teacher / WEIGHTS).stat().st_size


def test_a_copy_that_moved_away_from_its_base_says_what_it_needs(teacher: Path, tmp_path: Path) -> None:
    (teacher / "student").rename(tmp_path / "alone")
    with pytest.raises(CheckpointError, match=r"needs its base: .*the checkpoint has no config\.json"):
        read_checkpoint(tmp_path / "alone")


@pytest.mark.parametrize(("base", "message"), [(3, "must be the relative path"), (".", "has a base itself")])
def test_a_base_that_cannot_be_one_is_refused(teacher: Path, base: object, message: str) -> None:
    path = teacher / "student" / CONFIG
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "base": base}), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(teacher / "student")


def test_a_changed_base_changes_what_the_student_is(teacher: Path) -> None:
    before = read_checkpoint(teacher / "student").sha256
    other = MicroForgePipeline.from_pretrained(teacher)
    with torch.no_grad():
        next(other.vae.parameters()).add_(1.0)
    student = teacher / "student"
    student.rename(teacher.parent / "kept")
    other.save_pretrained(teacher, torch.float16)
    (teacher.parent / "kept").rename(student)
    assert read_checkpoint(student).sha256 != before


def test_writing_over_a_checkpoint_keeps_what_is_not_its_own(teacher: Path) -> None:
    (teacher / "README.md").write_text("mine", "utf-8")
    own = (teacher / "student" / WEIGHTS).read_bytes()
    again = MicroForgePipeline.from_pretrained(teacher)
    again.stages = ("vae",)
    again.save_pretrained(teacher, torch.float16)
    assert (teacher / "README.md").read_text("utf-8") == "mine"
    assert (teacher / "student" / WEIGHTS).read_bytes() == own
    assert read_checkpoint(teacher).stages == ("vae",)
