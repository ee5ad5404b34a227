"""``mf-export distill``: nothing is overwritten, a run resumes bit for bit, the student states its grid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from microforge.checkpoint import read_checkpoint
from microforge.errors import BundleError, CheckpointError, DataError, OutputExistsError, SpecError
from microforge.io.console import BAD_INPUT, exit_code
from microforge.pipeline import MicroForgePipeline
from microforge.training.distillation import (
    rejection_sampling,
    settings,
    stage,
    teacher,
    trajectories,
    trajectory_cache,
)
from microforge.training.distillation.command import DistillResult, estimate_distill, run_distill
from microforge.training.distillation.request import DistillOptions, DistillRequest
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.student_init import initial_student
from microforge.training.engine import loop
from microforge.training.loop_options import DataOptions, LoopOptions
from microforge_export.cli import app
from microforge_export.providers.microforge import read_model
from microforge_runtimes.sampler import choose_table


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cache files of four trajectories in eight teacher steps, no plots, blank sheets."""
    torch.set_num_threads(1)
    for module in (trajectory_cache, trajectories, rejection_sampling):
        monkeypatch.setattr(module, "FILE_ROWS", 4)
    for module in (settings, teacher):
        monkeypatch.setattr(module, "TEACHER_STEPS", 8)
    monkeypatch.setattr(loop, "plot_losses", lambda log, out: None)
    monkeypatch.setattr(stage.DistillStage, "sheet", lambda self, ema: torch.zeros(3, 8, 8))
    yield


def request(checkpoint: Path, folder: Path, **options: Any) -> DistillRequest:
    """A short run on the CPU; every option under its settings key."""
    small = {"student_steps": 2, "steps": 4, "batch": 4, "trajectories": 4, "save_every": 2, "device": "cpu"}
    return changed(DistillRequest(checkpoint, folder / "student"), **{**small, **options})


def changed(request: DistillRequest, **options: Any) -> DistillRequest:
    """``request`` with other options, each under its settings key or the name of its field."""
    groups = {"options": DistillOptions, "data": DataOptions, "loop": LoopOptions}
    for key, value in options.items():
        group = next((name for name, kind in groups.items() if key in kind.__annotations__), None)
        if key == "out":
            request = replace(request, out=value)
        elif group is None:
            settings = {name: old for name, old in request.settings.items() if name != key}
            request = replace(request, settings=settings if value is None else {**settings, key: value})
        else:
            request = replace(request, **{group: replace(getattr(request, group), **{key: value})})
    return request


def run(request: DistillRequest) -> DistillResult:
    return run_distill(request, Console(quiet=True))


def test_distill_writes_a_student_whose_manifest_entry_is_its_own_grid(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = run(request(checkpoint, tmp_path))
    assert result.checkpoint == tmp_path / "student" and result.student_steps == 2
    model = read_model(tmp_path / "student")
    driving = model.provider.driving(model.tasks)
    assert driving.samplers[0].times == (1.0, 0.5) and driving.guidance == {}
    with pytest.raises(BundleError, match="steps is 1; this bundle allows: 2"):
        choose_table(driving.samplers, 1)
    row = json.loads((tmp_path / "student.run" / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert {"step", "segment", "flow", "plan_similarity", "grad_norm"} <= set(row)
    with pytest.raises(CheckpointError, match="was distilled already"):
        run(request(tmp_path / "student", tmp_path / "again"))


@pytest.mark.parametrize("skip", [None, 1])
def test_distill_resumed_is_bit_for_bit_the_uninterrupted_run(
    checkpoint: Path, tmp_path: Path, skip: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = request(checkpoint, tmp_path / "one", skip=skip)
    run(whole)
    cut = changed(whole, out=tmp_path / "two" / "student")
    loss = stage.DistillStage.loss

    def killed(self: stage.DistillStage, step: int, shard: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return loss(self, step, shard)

    with monkeypatch.context() as patch:
        patch.setattr(stage.DistillStage, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    assert not (tmp_path / "two" / "student").exists()
    with pytest.raises(OutputExistsError, match="--resume continues it"):
        run(cut)
    run(changed(cut, resume=True))
    first, second = (read_checkpoint(tmp_path / name / "student") for name in ("one", "two"))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(second.tensors[name], value) for name, value in first.tensors.items())
    with pytest.raises(CheckpointError, match="holds a run with stage"):
        run(changed(cut, student_steps=4, skip=None, resume=True))


def test_distill_overwrites_only_with_force_and_preserves_trajectories_that_match(
    checkpoint: Path, tmp_path: Path
) -> None:
    again = request(checkpoint, tmp_path, steps=1)
    run(again)
    file = tmp_path / "student.run" / "trajectories" / "generate-000000.safetensors"
    was = file.stat().st_mtime_ns
    with pytest.raises(OutputExistsError, match="already exists"):
        run(again)
    run(changed(again, force=True))
    assert file.stat().st_mtime_ns == was


def test_distill_dry_run_estimates_disk_and_memory_and_writes_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    estimate = estimate_distill(changed(request(checkpoint, tmp_path), out=None), Console(quiet=True))
    values = estimate.values()
    assert values["cache_bytes"] == values["cache_missing_bytes"]
    assert int(str(values["sample_bytes"])) > 0 and list(tmp_path.iterdir()) == []


def test_distill_learns_every_task_the_teacher_knows(editing_checkpoint: Path, tmp_path: Path) -> None:
    run(request(editing_checkpoint, tmp_path, batch=8, trajectories=10, steps=1))
    row = json.loads((tmp_path / "student.run" / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert {"segment_generate", "segment_edit", "segment_inpaint", "segment_super_resolve"} <= set(row)
    assert read_checkpoint(tmp_path / "student").spec.tasks == read_checkpoint(editing_checkpoint).spec.tasks


def test_distill_from_another_students_weights_starts_as_that_student(
    checkpoint: Path, tmp_path: Path
) -> None:
    previous = run(request(checkpoint, tmp_path / "before", optimizer={"learning_rate": 1e-2})).checkpoint
    still = {"init": str(previous), "steps": 1, "optimizer": {"learning_rate": 1e-12, "ema": 0.0}}
    run(request(checkpoint, tmp_path / "after", **still))
    first, second = (read_checkpoint(tmp_path / name / "student") for name in ("before", "after"))
    apart = {
        name
        for name, value in first.tensors.items()
        if not torch.allclose(value, second.tensors[name], atol=1e-6)
    }
    assert not apart
    teacher = read_checkpoint(checkpoint)
    assert any(
        not torch.allclose(value, teacher.tensors[name], atol=1e-4) for name, value in second.tensors.items()
    )


def test_distill_starts_only_from_a_student_of_the_same_latents(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no student"):
        run(request(checkpoint, tmp_path, init=str(checkpoint)))
    run(request(checkpoint, tmp_path, steps=1))
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "student", moved)
    config = json.loads((moved / "config.json").read_text("utf-8"))
    config["model"]["vae"]["latent_std"] = [2.0] * read_checkpoint(moved).spec.latent_channels
    (moved / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match=r"--init .* was trained on the latents of another VAE"):
        run(request(checkpoint, tmp_path / "again", init=str(moved)))
    with pytest.raises(CheckpointError, match="is a student, not the teacher"):
        run(
            request(
                checkpoint,
                tmp_path / "again",
                init=str(tmp_path / "student"),
                init_teacher=str(tmp_path / "student"),
            )
        )
    with pytest.raises(SpecError, match="give --init too"):
        run(request(checkpoint, tmp_path / "again", init_teacher=str(checkpoint)))


def test_distill_without_steps_writes_the_task_vector_update_and_samples_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    run(request(checkpoint, tmp_path, steps=1))
    new = MicroForgePipeline.from_pretrained(checkpoint)
    new.backbone.head.weight.data += 0.5
    new.save_pretrained(tmp_path / "new")
    update = {"init": str(tmp_path / "student"), "init_teacher": str(checkpoint), "steps": 0}
    run(request(tmp_path / "new", tmp_path / "after", **update))
    before, after = (read_checkpoint(tmp_path / name) for name in ("student", "after/student"))
    for name, value in after.tensors.items():
        wanted = before.tensors[name] + (0.5 if name == "backbone.head.weight" else 0.0)
        assert torch.allclose(value, wanted, atol=1e-6), name
    assert after.spec.sampler == before.spec.sampler and after.stages[-1] == "distill"
    assert [entry.name for entry in (tmp_path / "after").iterdir()] == ["student"]
    with pytest.raises(SpecError, match="give --init and init_teacher"):
        run(request(checkpoint, tmp_path / "none", steps=0))
    with pytest.raises(SpecError, match=r"--init has \d sampling steps, --student-steps is 8"):
        run(request(tmp_path / "new", tmp_path / "none", **update, student_steps=8))


def test_initial_student_adds_the_difference_of_the_two_teachers(checkpoint: Path, tmp_path: Path) -> None:
    run(request(checkpoint, tmp_path, steps=1))
    student, before = read_checkpoint(tmp_path / "student"), read_checkpoint(checkpoint)
    learned = {name: 0.0 if name.startswith("vae.") else 0.5 for name in before.tensors}
    now = replace(before, tensors={name: value + learned[name] for name, value in before.tensors.items()})
    updated = initial_student(tmp_path / "student", checkpoint, now)
    assert updated is not None and set(updated.tensors) == set(student.tensors)
    for name, value in updated.tensors.items():
        assert torch.allclose(value, student.tensors[name] + learned[name], atol=1e-5), name
    half = initial_student(tmp_path / "student", checkpoint, now, 0.5)
    assert half is not None
    for name, value in half.tensors.items():
        assert torch.allclose(value, student.tensors[name] + 0.5 * learned[name], atol=1e-5), name
    with pytest.raises(SpecError, match=r"delta_scale is 0\.0; allowed: above 0"):
        initial_student(tmp_path / "student", checkpoint, now, 0.0)
    with pytest.raises(SpecError, match="give init_teacher too"):
        initial_student(tmp_path / "student", None, now, 0.5)


def test_distill_learns_a_task_from_the_samples_of_its_task_teacher(
    checkpoint: Path, editing_checkpoint: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before" / "student"
    run(request(editing_checkpoint, tmp_path / "before", steps=1))
    options = {"batch": 8, "trajectories": 10, "steps": 1, "task_teachers": (f"generate={before}",)}
    run(request(editing_checkpoint, tmp_path / "after", **options))
    folder = tmp_path / "after" / "student.run" / "trajectories"
    points = {
        task: load_file(folder / f"{task}-000000.safetensors")["points"] for task in ("generate", "edit")
    }
    assert points["generate"].shape[1] == 3 and points["edit"].shape[1] == 9
    with pytest.raises(CheckpointError, match="holds trajectories of another teacher"):
        run(
            request(
                editing_checkpoint, tmp_path / "other", **{**options, "task_teachers": ()}, cache=str(folder)
            )
        )
    for assignment, fault in (
        ("generate", "write TASK=CHECKPOINT, with a task of: generate, edit"),
        (f"paint={before}", "with a task of: generate, edit"),
        (f"generate={tmp_path}", "config.json"),
    ):
        with pytest.raises((SpecError, CheckpointError), match=fault):
            run(request(editing_checkpoint, tmp_path / "none", task_teachers=(assignment,)))
    with pytest.raises(SpecError, match="names generate twice"):
        run(request(editing_checkpoint, tmp_path / "none", task_teachers=(f"generate={before}",) * 2))
    with pytest.raises(SpecError, match="has 2 sampling steps, --student-steps is 4"):
        run(
            request(
                editing_checkpoint, tmp_path / "none", task_teachers=(f"generate={before}",), student_steps=4
            )
        )
    with pytest.raises(SpecError, match=r"has no steps within a segment; leave out skip"):
        run(request(editing_checkpoint, tmp_path / "none", task_teachers=(f"generate={before}",), skip=1))
    assert not (tmp_path / "none").exists()
    with pytest.raises(CheckpointError, match="was distilled already; distill from its teacher"):
        run(request(before, tmp_path / "none"))


def test_distill_with_filtered_samples_needs_captions_that_can_be_judged(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        SpecError, match="--filter-samples needs captions that the oracle can judge: --data scenes"
    ):
        run(request(checkpoint, tmp_path, filter_samples=True, data=str(tmp_path)))
    with pytest.raises(DataError, match="none of the teacher's samples shows its caption"):
        run(request(checkpoint, tmp_path, filter_samples=True))


def test_distill_names_what_it_cannot_do(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="student_steps is 3; allowed: 1, 2, 4, 8"):
        run(request(checkpoint, tmp_path, student_steps=3))
    with pytest.raises(
        SpecError,
        match="on_policy_fraction needs targets at the end of a segment and cannot be used with skip",
    ):
        run(request(checkpoint, tmp_path, skip=1, on_policy_fraction=0.5))
    with pytest.raises(SpecError, match="edits belongs to a teacher that edits"):
        run(request(checkpoint, tmp_path, edits="mine"))
    with pytest.raises(SpecError, match="--out is missing"):
        run(changed(request(checkpoint, tmp_path), out=None))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(request(checkpoint, tmp_path, resume=True))
    assert (
        exit_code(app, ["distill", str(checkpoint), "--out", str(tmp_path / "x"), "--student-steps", "5"])
        == BAD_INPUT
    )
    assert isinstance(DistillSettings(settings.DISTILL_SETTINGS["nano"].optimizer).cached_intervals, int)
