"""The trajectory cache: its size is known before it is written, a kill loses nothing, another teacher's is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SceneSource
from microforge.errors import CheckpointError, OutputError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import TASKS
from microforge.training.distillation import teacher as teacher_module
from microforge.training.distillation import trajectories, trajectory_cache
from microforge.training.distillation.teacher import (
    FrozenTeacher,
    TrajectoryPlan,
    known_tasks,
    rows_per_task,
)
from microforge.training.distillation.trajectories import TrajectoryInputs, build_cache
from microforge.training.distillation.trajectory_cache import (
    CacheSize,
    TrajectoryDataset,
    cache_file,
    check_room,
    predict_size,
)

PLAN = TrajectoryPlan(
    {"generate": 6, "edit": 3}, (64, 64), intervals=4, cached_intervals=8, seed=0, bfloat16=False
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cache files of four trajectories, of a teacher in eight steps."""
    torch.set_num_threads(1)
    for module in (trajectory_cache, trajectories):
        monkeypatch.setattr(module, "FILE_ROWS", 4)
    monkeypatch.setattr(teacher_module, "TEACHER_STEPS", 8)


def build(
    checkpoint: Path, folder: Path, plan: TrajectoryPlan = PLAN, **options: Any
) -> dict[str, TrajectoryDataset]:
    teacher, source = FrozenTeacher(read_checkpoint(checkpoint), "cpu"), SceneSource()
    inputs = TrajectoryInputs(teacher, source, SceneTriples(), plan, source.fingerprint)
    return build_cache(inputs, folder, Console(quiet=True), **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_cache_holds_points_from_noise_to_image_in_half_precision(
    small: None, editing_checkpoint: Path, tmp_path: Path
) -> None:
    cache = build(editing_checkpoint, tmp_path)
    rows = cache["edit"].take([2, 0])
    assert rows.points.shape == (2, 5, 4, 2, 2) and rows.source is not None
    assert rows.points.dtype == torch.float32 and cache["generate"].take([5]).source is None
    assert 0.7 < float(cache["generate"].take(range(6)).points[:, 0].std()) < 1.3
    assert sorted(contents(tmp_path)) == [
        "edit-000000.safetensors", "generate-000000.safetensors", "generate-000001.safetensors",
    ]  # fmt: skip


def test_cache_size_is_predicted_to_a_few_percent_and_existing_files_are_not_counted(
    small: None, editing_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectory_cache, "_HEADER", 600)
    before = predict_size(tmp_path / "new", PLAN.rows, (4, 2, 2), dict.fromkeys(PLAN.rows, 8), 16)
    assert before.missing == before.total and not (tmp_path / "new").exists()
    build(editing_checkpoint, tmp_path / "new")
    written = sum(map(len, contents(tmp_path / "new").values()))
    assert before.total == pytest.approx(written, rel=0.1)
    assert predict_size(tmp_path / "new", PLAN.rows, (4, 2, 2), dict.fromkeys(PLAN.rows, 8), 16).missing == 0


def test_cache_that_does_not_fit_on_the_disk_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    check_room(CacheSize(200, 95, 100), tmp_path)
    with pytest.raises(OutputError, match=r"needs 1\.0 MB more and the disk has 1\.0 MB"):
        check_room(CacheSize(1_000_000, 1_000_000, 1_020_000), tmp_path)


def test_cache_of_a_killed_build_is_finished_bit_for_bit(
    small: None, editing_checkpoint: Path, tmp_path: Path
) -> None:
    build(editing_checkpoint, tmp_path / "whole")
    build(editing_checkpoint, tmp_path / "cut", replace(PLAN, rows={"generate": 3, "edit": 0}))
    (tmp_path / "cut" / ".generate-000001.safetensors.77").write_bytes(b"half")
    was = (tmp_path / "cut" / "generate-000000.safetensors").stat().st_mtime_ns
    build(editing_checkpoint, tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert (tmp_path / "cut" / "generate-000000.safetensors").stat().st_mtime_ns == was


def test_cache_of_another_teacher_or_of_other_settings_is_refused_by_name_or_generated_again(
    small: None, checkpoint: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, rows={"generate": 2})
    folder = tmp_path / "cache"
    build(checkpoint, folder, plan)
    with pytest.raises(CheckpointError, match="holds trajectories of another seed"):
        build(checkpoint, folder, replace(plan, seed=1))
    with pytest.raises(CheckpointError, match="stores 8 intervals per trajectory and 16 are needed"):
        build(checkpoint, folder, replace(plan, intervals=16))
    other = MicroForgePipeline.from_pretrained(checkpoint)
    other.spec = replace(other.spec, sampler=replace(other.spec.sampler, text_guidance=5.0))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds trajectories of another teacher"):
        build(tmp_path / "other", folder, plan)
    was = contents(folder)
    build(tmp_path / "other", folder, plan, rebuild=True)
    assert contents(folder) != was


def test_cache_with_a_damaged_file_is_refused_by_name(small: None, checkpoint: Path, tmp_path: Path) -> None:
    cache_file(tmp_path, "generate", 0).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged"):
        build(checkpoint, tmp_path, replace(PLAN, rows={"generate": 2}))


def test_rows_of_the_tasks_follow_the_mix(checkpoint: Path, editing_checkpoint: Path) -> None:
    assert known_tasks(read_checkpoint(checkpoint)) == ("generate",)
    assert known_tasks(read_checkpoint(editing_checkpoint)) == TASKS
    assert rows_per_task(100, TASKS) == {"generate": 40, "edit": 35, "inpaint": 15, "super-resolve": 10}
    assert rows_per_task(100, ("generate",)) == {"generate": 100}
    assert rows_per_task(100, TASKS, 0.7) == {"generate": 70, "edit": 18, "inpaint": 8, "super-resolve": 5}
    assert rows_per_task(100, ("generate",), 0.7) == {"generate": 100}


def test_captions_of_a_file_are_the_same_wherever_a_build_continues(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectories, "PART", 8)
    for module in ("order", "world.image_source"):
        monkeypatch.setattr(f"microforge.data.{module}.PART", 8)
    source = SceneSource()

    def texts(first: int, end: int) -> dict[int, tuple[str, ...]]:
        blocks = trajectories._captioned(source, PLAN, first, end, "cpu")
        return {number: captions for number, _, captions in blocks}

    whole = texts(0, 5)
    assert list(whole) == [0, 1, 2, 3, 4] and len(set(whole.values())) == 5
    assert texts(3, 5) == {number: whole[number] for number in (2, 3, 4)}  # from the start of its part
    assert texts(0, 2) == {number: whole[number] for number in (0, 1)}
