"""The student's targets, plans and loss; and that it learns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from microforge.checkpoint import read_checkpoint
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SceneSource
from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import euler_step, interpolate, uniform_grid
from microforge.training.distillation import teacher as teacher_module
from microforge.training.distillation import trajectory_cache
from microforge.training.distillation.int8_grid import rounded
from microforge.training.distillation.samples import (
    Rows,
    Samples,
    chained,
    perturbation,
    redrawn,
    window_samples,
)
from microforge.training.distillation.settings import DistillSettings, distill_settings
from microforge.training.distillation.stage import DistillStage
from microforge.training.distillation.teacher import (
    DrawingPlan,
    Teacher,
    build_cache,
    known_tasks,
    rows_of,
)
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.optimizers import make_optimizers, take_step
from microforge.training.settings import LoopSettings, OptimizerSettings

RATE = OptimizerSettings(2e-3, warmup_steps=1, decay_fraction=0.0)
EVERYWHERE = torch.ones(1, 1, 1, 1, dtype=torch.bool)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    for module in (trajectory_cache, teacher_module):
        monkeypatch.setattr(module, "CHUNK", 4)
    yield


def stage_of(checkpoint: Path, folder: Path, accumulate: int = 1, **options: Any) -> DistillStage:
    settings = DistillSettings(**{"optimizer": RATE, "batch": 8, "drawings": 8, "updates": 20, **options})
    found = read_checkpoint(checkpoint)
    teacher, source = Teacher(found, "cpu"), SceneSource()
    plan = DrawingPlan(
        rows_of(settings.drawings, known_tasks(found)), (64, 64), settings.intervals, 16, 0, False
    )
    drawings = build_cache(
        teacher, source, SceneTriples(), plan, folder, source.fingerprint, Console(quiet=True)
    )
    loop = LoopSettings(accumulate=accumulate)
    return DistillStage(teacher, drawings, settings, loop, (64, 64), source.prompts(2), SceneTriples())


def by_window(value: Tensor, windows: int) -> Tensor:
    """(B * W, ...) as (B, W, ...)."""
    return value.reshape(-1, windows, *value.shape[1:])


def samples_of(stage: DistillStage, step: int = 0) -> tuple[Samples, Tensor]:
    """The samples of a step's first layout, and the teacher's points (B, P, C, h, w) they are made from."""
    rows = stage.draw(step, WHOLE)[0]
    text = stage._encode(rows.drawn.ids)
    return window_samples(stage.student, rows, text, stage.settings, step, 0), rows.drawn.points


def test_true_targets_lead_straight_from_the_noise_to_the_data_for_the_named_tasks_alone(
    editing_checkpoint: Path, tmp_path: Path
) -> None:
    found = read_checkpoint(editing_checkpoint)
    teacher, source = Teacher(found, "cpu"), SceneSource()
    caches = []
    for true_targets in ((), ("edit", "super-resolve")):
        plan = DrawingPlan(rows_of(8, known_tasks(found)), (64, 64), 4, 8, 0, False, true_targets)
        folder = tmp_path / str(len(true_targets))
        caches.append(build_cache(teacher, source, SceneTriples(), plan, folder, "", Console(quiet=True)))
    drawn, straight = caches
    assert set(straight) > {"edit", "super-resolve"}
    for task, drawings in straight.items():
        one, other = drawings.take([0]), drawn[task].take([0])
        assert torch.equal(one.ids, other.ids) and torch.equal(one.points[:, 0], other.points[:, 0])
        if task in ("generate", "inpaint"):
            assert torch.equal(one.points, other.points)
            continue
        assert torch.allclose(one.points[:, -1], one.truth, atol=1e-3)
        assert not torch.allclose(one.points[:, -1], other.points[:, -1], atol=1e-2)
        middle = (one.points[:, 0] + one.points[:, -1]) / 2
        assert torch.allclose(one.points[:, one.points.shape[1] // 2], middle, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_targets_take_every_window_to_the_point_where_the_teacher_was(
    checkpoint: Path, tmp_path: Path, steps: int
) -> None:
    samples, points = samples_of(stage_of(checkpoint, tmp_path, steps=steps, anchor=0.0))
    z, target, grid = (
        by_window(samples.z, steps),
        by_window(samples.target, steps),
        uniform_grid(steps),
    )
    for index in range(steps):
        end = euler_step(z[:, index], target[:, index], grid[index], grid[index + 1])
        assert torch.allclose(end, points[:, index + 1], atol=1e-5)
    assert torch.equal(by_window(samples.t, steps)[0], torch.tensor(grid[:-1]))


def test_the_last_updates_start_from_the_students_own_latents_and_end_at_the_teachers(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.0, own=0.25)
    before, points = samples_of(stage, 14)
    own, own_points = samples_of(stage, 15)
    assert torch.equal(by_window(before.z, 4), points[:, :4])
    z, target = (by_window(value, 4) for value in (own.z, own.target))
    assert torch.equal(z[:, 0], own_points[:, 0]) and not torch.allclose(z[:, 1], own_points[:, 1], atol=1e-3)
    assert torch.allclose(z - 0.25 * target, own_points[:, 1:], atol=1e-5)
    always, points = samples_of(stage_of(checkpoint, tmp_path, anchor=0.0, own=1.0), 0)
    assert not torch.allclose(by_window(always.z, 4)[:, 1], points[:, 1], atol=1e-3)


def test_perturbed_starts_have_the_asked_strength_and_still_end_at_the_teachers(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.0, own=0.0, perturb=0.2)
    samples, points = samples_of(stage)
    z, target = by_window(samples.z, 4), by_window(samples.target, 4)
    assert torch.allclose(z - 0.25 * target, points[:, 1:], atol=1e-5)
    strength = (z - points[:, :4]).std((1, 2, 3, 4))  # (B,)
    assert bool((strength > 0.0).all()) and bool((strength < 0.21).all())
    assert float(strength.max()) > 2.0 * float(
        strength.min()
    )  # from none to all: the runtime's latents have none
    whole, half = stage.draw(3, WHOLE)[0], stage.draw(3, Shard(1, 2))[0]
    ours = torch.isin(whole.places, half.places)
    assert torch.equal(
        perturbation(whole, stage.settings, 3, 0)[ours], perturbation(half, stage.settings, 3, 0)
    )


def test_a_perturbed_own_rollout_goes_on_from_the_perturbed_latents(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.0)
    denoiser, text = stage.student.denoiser, stage._encode(stage.teacher.ids(["a red circle"], "generate"))
    first = stage.pipeline(stage.student)._noise((64, 64), 1, 3)
    ends = first[:, None].expand(-1, 5, -1, -1, -1)
    noise = torch.zeros_like(ends[:, :4])
    noise[:, 0] = 0.1
    with torch.no_grad():
        moved, _ = chained(denoiser, ends, text, None, EVERYWHERE, noise)
        plain, _ = chained(denoiser, ends + 0.1, text, None, EVERYWHERE)
    assert torch.allclose(moved, plain, atol=1e-6) and not torch.allclose(moved[:, 1], first, atol=0.01)


def test_the_own_rollout_and_its_plans_are_what_the_runtime_computes(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.0)
    pipeline = stage.pipeline(stage.student)
    prompts = ["a red circle", "a blue square"]
    text = stage._encode(stage.teacher.ids(prompts, "generate"))
    noise = pipeline._noise((64, 64), 2, 3)
    with torch.no_grad():
        starts, plans = chained(
            stage.student.denoiser, noise[:, None].expand(-1, 5, -1, -1, -1), text, None, EVERYWHERE
        )
    seen, handed = [noise], []
    hook = pipeline.planner.register_forward_hook(lambda module, given, result: handed.append(result))
    pipeline.text2img(prompts, seed=3, callback=lambda step, steps, z: seen.append(z))
    hook.remove()
    assert torch.allclose(starts, torch.stack(seen[:4], 1), atol=1e-5)
    assert torch.allclose(plans[:, 1:], torch.stack(handed[:3], 1), atol=1e-5)


def test_the_own_rollout_of_an_inpainting_blends_what_is_known_as_the_runtime_does(
    editing_checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, drawings=16, anchor=0.0)
    teacher, pipeline = stage.teacher, stage.pipeline(stage.student)
    found = SceneTriples().triples("inpaint", 0, 3, 1, range(1), (64, 64), "cpu")
    assert found.masks is not None
    noise, truth = pipeline._noise((64, 64), 1, 3), teacher.latents(found.targets)
    hole = torch.nn.functional.max_pool2d(found.masks.float(), pipeline.vae.spec.downsample) > 0
    ends = torch.stack([interpolate(truth, noise, torch.tensor([t])) for t in uniform_grid(4)], 1)
    assert not bool(hole.all())
    ends[:, 1:] += hole[:, None]  # the teacher's own latents, elsewhere the data's
    drawn = trajectory_cache.Shard(
        ends, truth, teacher.ids(found.texts, "inpaint"), teacher.latents(found.sources)
    )
    rows = Rows(["inpaint"], torch.zeros(1, dtype=torch.long), drawn, torch.zeros(1, dtype=torch.bool))
    assert torch.equal(redrawn(rows), hole)
    assert bool(redrawn(replace(rows, tasks=["edit"])).all())
    with torch.no_grad():
        starts, _ = chained(
            stage.student.denoiser, ends, stage._encode(drawn.ids), drawn.source, redrawn(rows)
        )
    seen = [noise]
    (prompt,) = found.texts
    pipeline.inpaint(
        found.targets, found.masks.float(), prompt, seed=3, callback=lambda step, steps, z: seen.append(z)
    )
    assert torch.allclose(starts, torch.stack(seen[:4], 1), atol=1e-4)


def test_segment_targets_are_exact_at_a_windows_end_and_the_slow_copys_elsewhere(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, skip=2, anchor=0.0)
    samples, points = samples_of(stage)
    z, target, t = (by_window(value, 4) for value in (samples.z, samples.target, samples.t))
    end = torch.tensor(uniform_grid(4)[1:])
    landed = z - (t - end).reshape(8, 4, 1, 1, 1) * target
    last = ((t - end) * 8).round() == 1  # one skip before the end
    assert bool(last.any()) and not bool(last.all())
    error = (landed - points[:, 2::2]).abs().amax((2, 3, 4))
    assert float(error[last].max()) < 1e-5 < float(error[~last].min())
    assert torch.allclose(by_window(samples.reach, 4), (t - end) * 4)


def test_the_slow_copy_follows_the_student_once_a_step_and_is_not_trained(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, accumulate=2, skip=2, target_ema=0.75)
    slow, fast = stage.student.slow, stage.student.denoiser
    assert slow is not None and not any(p.requires_grad for p in slow.parameters())
    with torch.no_grad():
        fast.backbone.head.bias.add_(1.0)
        before = slow.backbone.head.bias.clone()
        for index in range(2):
            stage.loss(1, Shard(index, 2))
    assert torch.allclose(slow.backbone.head.bias - before, torch.full_like(before, 0.25), atol=1e-6)


@pytest.mark.parametrize("skip", [None, 2])
def test_loss_of_a_batch_is_the_mean_over_its_pieces(
    editing_checkpoint: Path, tmp_path: Path, skip: int | None
) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, drawings=12, skip=skip, anchor=0.25)
    with torch.no_grad():
        whole = stage.loss(0, WHOLE)
        parts = [stage.loss(0, Shard(index, 2)) for index in range(2)]
    assert {"loss", "window", "flow", "window_edit", "window_super_resolve"} <= set(whole)
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert torch.allclose(mean, value, rtol=1e-4, atol=1e-5), name
    shares = stage.shares
    tasks = sum(share * float(whole[f"window_{task.replace('-', '_')}"]) for task, share in shares.items())
    assert float(whole["window"]) == pytest.approx(tasks, rel=1e-4)


def test_anchors_are_their_share_of_every_batch_and_keep_the_flows_targets(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.25)
    rows = stage.draw(0, WHOLE)[0]
    assert int(rows.anchor.sum()) == 2
    samples, _ = samples_of(stage)
    kept = rows.anchor.repeat_interleave(4)
    truth = rows.drawn.truth.repeat_interleave(4, 0)
    clean = samples.z - samples.t.reshape(-1, 1, 1, 1) * samples.target  # z_t - t (noise - z0)
    assert torch.allclose(clean[kept], truth[kept], atol=1e-4)
    assert not torch.allclose(clean[~kept], truth[~kept], atol=0.1)


def test_student_learns_to_end_where_its_teacher_does(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, anchor=0.0, updates=60, own=0.15)
    optimizers = make_optimizers(stage.network, RATE)
    points = stage.drawings["generate"].take(range(8))
    text = stage._encode(points.ids)

    def distance() -> float:
        """Between where the student and the teacher end, from the same noise."""
        ends = points.points
        with torch.no_grad():
            starts, plans = chained(stage.student.denoiser, ends, text, None, EVERYWHERE)
            t = torch.full((8,), 0.25)
            velocity, _ = stage.student.denoiser(starts[:, 3], t, *text, plans[:, 3], torch.ones(8))
        return float((starts[:, 3] - 0.25 * velocity - ends[:, 4]).square().mean())

    before = distance()
    for step in range(60):
        stage.loss(step)["loss"].backward()  # type: ignore[no-untyped-call]
        take_step(stage.network, optimizers, 2.0)
    assert distance() < 0.5 * before


def test_settings_refuse_grids_and_skips_that_do_not_divide() -> None:
    with pytest.raises(SpecError, match="the student's steps are 3; allowed: 1, 2, 4, 8"):
        distill_settings("nano", steps=3)
    with pytest.raises(
        SpecError, match="skip is 3; a window of 4 steps holds 4 of the teacher's: allowed: 1, 2"
    ):
        distill_settings("nano", skip=3)
    with pytest.raises(SpecError, match="anchor is 1"):
        DistillSettings(RATE, anchor=1.0)
    with pytest.raises(SpecError, match="the share of own rollouts is 2; allowed: 0 to 1"):
        distill_settings("nano", own=2)
    with pytest.raises(SpecError, match=r"perturb is -0\.1; allowed: 0 up to 1"):
        distill_settings("nano", perturb=-0.1)
    with pytest.raises(SpecError, match="perturbed starts belong to windows with an exact end, not to skip"):
        distill_settings("nano", skip=1, perturb=0.1)
    with pytest.raises(SpecError, match="the share of generate is 1"):
        distill_settings("nano", generate=1.0)
    with pytest.raises(SpecError, match="optimizer is 'sgd'; allowed: adamw, muon"):
        distill_settings("nano", kind="sgd")
    with pytest.raises(SpecError, match="ema is 1; allowed: 0 up to 1"):
        distill_settings("nano", ema=1)
    found = distill_settings("nano", learning_rate=1e-4, skip=1, kind="muon", ema=0.9)
    assert found.optimizer.kind == "muon" and found.optimizer.ema == 0.9
    assert found.intervals == found.kept == 16 and math.isclose(found.optimizer.learning_rate, 1e-4)
    assert distill_settings("nano", steps=2).kept == 8


def test_student_spec_refuses_other_steps_and_guidance_by_name(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path / "cache", steps=2, drawings=2)
    stage.write(tmp_path / "student", stage.student)
    student = MicroForgePipeline.from_pretrained(tmp_path / "student")
    assert student.spec.sampler.timesteps == (1.0, 0.5, 0.0) and student.spec.sampler.guidance_distilled
    assert student.stages[-1] == "distill"
    with pytest.raises(SpecError, match="steps is 4; this model was distilled to 2"):
        student.text2img("a red circle", num_steps=4)
    with pytest.raises(SpecError, match="guidance is 3; it is in the weights"):
        student.text2img("a red circle", guidance=3.0)
    calls: list[int] = []
    student.denoiser.register_forward_hook(lambda module, given, result: calls.append(len(result[0])))
    student.text2img(["a red circle", "a blue square"])
    assert calls == [2, 2]  # one evaluation a step, no second branch


def test_student_edits_with_one_evaluation_a_step(editing_checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, drawings=8)
    student = stage.pipeline(stage.student)
    found = SceneTriples().triples("inpaint", 0, 0, 1, range(1), (64, 64), "cpu")
    assert found.masks is not None
    calls: list[int] = []
    student.denoiser.register_forward_hook(lambda module, given, result: calls.append(1))
    student.edit(found.targets, "make it red")
    student.inpaint(found.targets, found.masks)
    assert len(calls) == 8
    sheet = stage.sheet(stage.student)
    assert sheet.shape[0] == 3 and bool(sheet.isfinite().all())


def test_a_student_on_the_int8_grid_is_written_so_and_keeps_the_teachers_vae(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path / "cache", drawings=2, int8_grid=True)
    stage.write(tmp_path / "student", stage.student)
    written, teacher = read_checkpoint(tmp_path / "student").tensors, read_checkpoint(checkpoint).tensors
    matrices = [key for key in written if key.startswith("backbone.") and written[key].ndim == 2]
    on_grid = [key for key in matrices if torch.allclose(rounded(written[key]), written[key], atol=1e-6)]
    off_grid = [key for key in matrices if torch.allclose(rounded(teacher[key]), teacher[key], atol=1e-6)]
    assert len(on_grid) > 0.8 * len(matrices) and not off_grid
    vae = [key for key in written if key.startswith("vae.")]
    assert vae and all(torch.equal(written[key], teacher[key]) for key in vae)


def test_a_slow_copy_is_only_made_where_it_is_needed(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, drawings=2)
    assert stage.student.slow is None
    folder = tmp_path / "segment"
    segment = stage_of(checkpoint, folder, drawings=2, skip=2)
    segment.write(tmp_path / "student", segment.student)
    names = {name.split(".")[0] for name in read_checkpoint(tmp_path / "student").tensors}
    assert names == {"vae", "backbone", "planner", "text_encoder"}
    assert (
        replace(segment.settings, skip=None).name == "distill-4"
        and segment.settings.name == "distill-4-skip-2"
    )
