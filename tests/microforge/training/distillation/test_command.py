"""``mf-export distill``: nothing is overwritten, a run goes on bit for bit, the student says what it is."""

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
from microforge.training.distillation import rejection_sampling, settings, stage, teacher, trajectory_cache
from microforge.training.distillation.command import DistillRequest, run_distill
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.student_init import starting_student
from microforge.training.engine import loop
from microforge_export.cli import app
from microforge_export.providers.microforge import read_model
from microforge_runtimes.sampler import timesteps


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shards of four drawings in eight teacher steps, no plots, blank sheets."""
    torch.set_num_threads(1)
    for module in (trajectory_cache, teacher, rejection_sampling):
        monkeypatch.setattr(module, "CHUNK", 4)
    for module in (settings, teacher):
        monkeypatch.setattr(module, "TEACHER_STEPS", 8)
    monkeypatch.setattr(loop, "plot_losses", lambda log, out: None)
    monkeypatch.setattr(stage.DistillStage, "sheet", lambda self, ema: torch.zeros(3, 8, 8))
    yield


def request(checkpoint: Path, folder: Path, **options: Any) -> DistillRequest:
    given = {"steps": 2, "updates": 4, "batch": 4, "drawings": 4, "save_every": 2, **options}
    return DistillRequest(checkpoint=checkpoint, out=folder / "student", **given)


def run(asked: DistillRequest) -> dict[str, object]:
    return run_distill(asked, Console(quiet=True))


def test_distill_writes_a_student_whose_manifest_entry_is_its_own_grid(
    checkpoint: Path, tmp_path: Path
) -> None:
    result = run(request(checkpoint, tmp_path))
    assert result["checkpoint"] == str(tmp_path / "student") and result["steps"] == 2
    model = read_model(tmp_path / "student")
    assert model.sampler.timesteps == (1.0, 0.5, 0.0) and model.sampler.guidance == "folded"
    with pytest.raises(BundleError, match="steps is 1; this bundle allows: 2"):
        timesteps(model.sampler, 1)
    row = json.loads((tmp_path / "student.run" / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert {"step", "window", "flow", "plan_similarity", "grad_norm"} <= set(row)
    with pytest.raises(CheckpointError, match="was distilled already"):
        run(request(tmp_path / "student", tmp_path / "again"))


@pytest.mark.parametrize("skip", [None, 1])
def test_distill_resumed_is_bit_for_bit_the_uninterrupted_run(
    checkpoint: Path, tmp_path: Path, skip: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = request(checkpoint, tmp_path / "one", skip=skip)
    run(whole)
    cut = replace(whole, out=tmp_path / "two" / "student")
    taken = stage.DistillStage.loss

    def killed(self: stage.DistillStage, step: int, shard: Any) -> Any:
        if step == 3:
            raise KeyboardInterrupt
        return taken(self, step, shard)

    with monkeypatch.context() as patch:
        patch.setattr(stage.DistillStage, "loss", killed)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    assert not (tmp_path / "two" / "student").exists()
    with pytest.raises(OutputExistsError, match="--resume goes on with it"):
        run(cut)
    run(replace(cut, resume=True))
    first, second = (read_checkpoint(tmp_path / name / "student") for name in ("one", "two"))
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(second.tensors[name], value) for name, value in first.tensors.items())
    with pytest.raises(CheckpointError, match="holds a run with stage"):
        run(replace(cut, steps=4, skip=None, resume=True))


def test_distill_overwrites_only_with_force_and_keeps_drawings_that_fit(
    checkpoint: Path, tmp_path: Path
) -> None:
    asked = request(checkpoint, tmp_path, updates=1)
    run(asked)
    shard = tmp_path / "student.run" / "trajectories" / "generate-000000.safetensors"
    was = shard.stat().st_mtime_ns
    with pytest.raises(OutputExistsError, match="already exists"):
        run(asked)
    run(replace(asked, force=True))
    assert shard.stat().st_mtime_ns == was


def test_distill_dry_run_says_what_it_takes_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    found = run(replace(request(checkpoint, tmp_path), out=None, dry_run=True))
    assert found["cache_bytes"] == found["cache_missing_bytes"]
    assert int(str(found["sample_bytes"])) > 0 and list(tmp_path.iterdir()) == []


def test_distill_learns_every_task_the_teacher_knows(editing_checkpoint: Path, tmp_path: Path) -> None:
    run(request(editing_checkpoint, tmp_path, batch=8, drawings=10, updates=1))
    row = json.loads((tmp_path / "student.run" / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert {"window_generate", "window_edit", "window_inpaint", "window_super_resolve"} <= set(row)
    assert read_checkpoint(tmp_path / "student").spec.tasks == read_checkpoint(editing_checkpoint).spec.tasks


def test_distill_from_another_students_weights_starts_as_that_student(
    checkpoint: Path, tmp_path: Path
) -> None:
    before = run(request(checkpoint, tmp_path / "before", learning_rate=1e-2))["checkpoint"]
    still = {"init": Path(str(before)), "updates": 1, "learning_rate": 1e-12, "ema": 0.0}
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
        run(request(checkpoint, tmp_path, init=checkpoint))
    run(request(checkpoint, tmp_path, updates=1))
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "student", moved)
    config = json.loads((moved / "config.json").read_text("utf-8"))
    config["model"]["vae"]["latent_std"] = [2.0] * read_checkpoint(moved).spec.latent_channels
    (moved / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match=r"--init .* knows the latents of another VAE"):
        run(request(checkpoint, tmp_path / "again", init=moved))
    with pytest.raises(CheckpointError, match="is a student, not the teacher"):
        run(
            request(
                checkpoint, tmp_path / "again", init=tmp_path / "student", init_teacher=tmp_path / "student"
            )
        )
    with pytest.raises(SpecError, match="give --init too"):
        run(request(checkpoint, tmp_path / "again", init_teacher=checkpoint))


def test_distill_without_updates_moves_a_student_after_its_teacher_and_draws_nothing(
    checkpoint: Path, tmp_path: Path
) -> None:
    run(request(checkpoint, tmp_path, updates=1))
    new = MicroForgePipeline.from_pretrained(checkpoint)
    new.backbone.head.weight.data += 0.5
    new.save_pretrained(tmp_path / "new")
    asked = {"init": tmp_path / "student", "init_teacher": checkpoint, "updates": 0}
    run(request(tmp_path / "new", tmp_path / "after", **asked))
    before, after = (read_checkpoint(tmp_path / name) for name in ("student", "after/student"))
    for name, value in after.tensors.items():
        wanted = before.tensors[name] + (0.5 if name == "backbone.head.weight" else 0.0)
        assert torch.allclose(value, wanted, atol=1e-6), name
    assert after.spec.sampler == before.spec.sampler and after.stages[-1] == "distill"
    assert [entry.name for entry in (tmp_path / "after").iterdir()] == ["student"]
    with pytest.raises(SpecError, match="give --init and --init-teacher"):
        run(request(checkpoint, tmp_path / "none", updates=0))
    with pytest.raises(SpecError, match=r"--init has \d steps, --steps is 8"):
        run(request(tmp_path / "new", tmp_path / "none", **asked, steps=8))


def test_starting_student_adds_what_the_new_teacher_has_learned_since(
    checkpoint: Path, tmp_path: Path
) -> None:
    run(request(checkpoint, tmp_path, updates=1))
    student, before = read_checkpoint(tmp_path / "student"), read_checkpoint(checkpoint)
    learned = {name: 0.0 if name.startswith("vae.") else 0.5 for name in before.tensors}
    now = replace(before, tensors={name: value + learned[name] for name, value in before.tensors.items()})
    found = starting_student(tmp_path / "student", checkpoint, now)
    assert found is not None and set(found.tensors) == set(student.tensors)
    for name, value in found.tensors.items():
        assert torch.allclose(value, student.tensors[name] + learned[name], atol=1e-5), name
    half = starting_student(tmp_path / "student", checkpoint, now, 0.5)
    assert half is not None
    for name, value in half.tensors.items():
        assert torch.allclose(value, student.tensors[name] + 0.5 * learned[name], atol=1e-5), name
    with pytest.raises(SpecError, match=r"--move is 0\.0; allowed: above 0"):
        starting_student(tmp_path / "student", checkpoint, now, 0.0)
    with pytest.raises(SpecError, match="give --init-teacher too"):
        starting_student(tmp_path / "student", None, now, 0.5)


def test_distill_learns_a_task_from_the_student_that_is_to_draw_it(
    checkpoint: Path, editing_checkpoint: Path, tmp_path: Path
) -> None:
    before = tmp_path / "before" / "student"
    run(request(editing_checkpoint, tmp_path / "before", updates=1))
    asked = {"batch": 8, "drawings": 10, "updates": 1, "drawers": (f"generate={before}",)}
    run(request(editing_checkpoint, tmp_path / "after", **asked))
    folder = tmp_path / "after" / "student.run" / "trajectories"
    points = {
        task: load_file(folder / f"{task}-000000.safetensors")["points"] for task in ("generate", "edit")
    }
    assert points["generate"].shape[1] == 3 and points["edit"].shape[1] == 9
    with pytest.raises(CheckpointError, match="holds drawings with another teacher"):
        run(request(editing_checkpoint, tmp_path / "other", **{**asked, "drawers": ()}, cache=folder))
    for drawer, fault in (
        ("generate", "write TASK=CHECKPOINT, with a task of: generate, edit"),
        (f"paint={before}", "with a task of: generate, edit"),
        (f"generate={tmp_path}", "config.json"),
    ):
        with pytest.raises((SpecError, CheckpointError), match=fault):
            run(request(editing_checkpoint, tmp_path / "none", drawers=(drawer,)))
    with pytest.raises(SpecError, match="names generate twice"):
        run(request(editing_checkpoint, tmp_path / "none", drawers=(f"generate={before}",) * 2))
    with pytest.raises(SpecError, match="has 2 steps, --steps is 4"):
        run(request(editing_checkpoint, tmp_path / "none", drawers=(f"generate={before}",), steps=4))
    with pytest.raises(SpecError, match=r"has no steps within a window; leave out --skip"):
        run(request(editing_checkpoint, tmp_path / "none", drawers=(f"generate={before}",), skip=1))
    assert not (tmp_path / "none").exists()
    with pytest.raises(CheckpointError, match="was distilled already; distill from its teacher"):
        run(request(before, tmp_path / "none"))


def test_distill_of_faithful_drawings_needs_captions_that_can_be_judged(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match="--faithful needs captions that the oracle can judge: --data scenes"):
        run(request(checkpoint, tmp_path, faithful=True, data=str(tmp_path)))
    with pytest.raises(DataError, match="not one of the teacher's drawings shows its caption"):
        run(request(checkpoint, tmp_path, faithful=True))


def test_distill_names_what_it_cannot_do(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="the student's steps are 3; allowed: 1, 2, 4, 8"):
        run(request(checkpoint, tmp_path, steps=3))
    with pytest.raises(SpecError, match="--own-rollout belongs to windows with an exact end, not to --skip"):
        run(request(checkpoint, tmp_path, skip=1, own=0.5))
    with pytest.raises(SpecError, match="--edits belongs to a teacher that edits"):
        run(request(checkpoint, tmp_path, edits="mine"))
    with pytest.raises(SpecError, match="say where to write the student"):
        run(replace(request(checkpoint, tmp_path), out=None))
    with pytest.raises(CheckpointError, match="nothing to resume"):
        run(request(checkpoint, tmp_path, resume=True))
    assert (
        exit_code(app, ["distill", str(checkpoint), "--out", str(tmp_path / "x"), "--steps", "5"])
        == BAD_INPUT
    )
    assert isinstance(DistillSettings(settings.DISTILL_SETTINGS["nano"].optimizer).kept, int)
