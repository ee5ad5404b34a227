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
from microforge.io.settings_file import with_values
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import euler_step, interpolate, uniform_grid
from microforge.training.distillation import trajectories, trajectory_cache
from microforge.training.distillation.int8_grid import rounded
from microforge.training.distillation.segments import (
    DistillRows,
    SegmentSamples,
    StepInputs,
    chained,
    sampled_latents,
    segment_samples,
    start_noise,
)
from microforge.training.distillation.settings import DistillSettings, distill_preset
from microforge.training.distillation.stage import DistillStage, SheetInputs
from microforge.training.distillation.teacher import (
    FrozenTeacher,
    TrajectoryPlan,
    known_tasks,
    rows_per_task,
)
from microforge.training.distillation.trajectories import TrajectoryInputs, build_cache
from microforge.training.distillation.trajectory_cache import TrajectoryBatch
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import ALONE
from microforge.training.engine.optimizers import make_optimizers, take_step
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import OptimizerSettings

RATE = OptimizerSettings(2e-3, warmup_steps=1, decay_fraction=0.0)
EVERYWHERE = torch.ones(1, 1, 1, 1, dtype=torch.bool)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    for module in (trajectory_cache, trajectories):
        monkeypatch.setattr(module, "FILE_ROWS", 4)
    yield


def stage_of(checkpoint: Path, folder: Path, accumulate: int = 1, **options: Any) -> DistillStage:
    small = {"optimizer": RATE, "batch": 8, "trajectories": 8, "steps": 20}
    settings = DistillSettings(**{**small, **options})
    checkpoint_ = read_checkpoint(checkpoint)
    teacher, source, triples = FrozenTeacher(checkpoint_, "cpu"), SceneSource(), SceneTriples()
    tasks = known_tasks(checkpoint_)
    rows = rows_per_task(settings.trajectories, tasks)
    plan = TrajectoryPlan(rows, (64, 64), settings.intervals, 16, 0, False)
    inputs = TrajectoryInputs(teacher, source, triples, plan, source.fingerprint)
    sheet = SheetInputs(source.prompts(2), triples)
    stage = DistillStage(
        teacher,
        tasks,
        settings,
        LoopSettings(accumulate=accumulate),
        (64, 64),
        sheet,
        lambda console, processes: build_cache(inputs, folder, console, processes),
    )
    stage.prepare(folder, Console(quiet=True), ALONE)
    return stage


def by_segment(value: Tensor, segments: int) -> Tensor:
    """(B * G, ...) as (B, G, ...)."""
    return value.reshape(-1, segments, *value.shape[1:])


def inputs_of(stage: DistillStage, step: int) -> StepInputs:
    return StepInputs(stage.student, stage.settings, 0, step)


def samples_of(stage: DistillStage, step: int = 0) -> tuple[SegmentSamples, Tensor]:
    """The samples of a step's first layout, and the teacher's points (B, P, C, h, w) behind them."""
    rows = stage.make_rows(step, WHOLE)[0]
    text = stage._encode(rows.trajectories.ids)
    return segment_samples(inputs_of(stage, step), rows, text), rows.trajectories.points


def test_true_targets_lead_straight_from_the_noise_to_the_data_for_the_named_tasks_alone(
    editing_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(editing_checkpoint)
    teacher, source = FrozenTeacher(checkpoint, "cpu"), SceneSource()
    caches = []
    for true_targets in ((), ("edit", "super-resolve")):
        rows = rows_per_task(8, known_tasks(checkpoint))
        plan = TrajectoryPlan(rows, (64, 64), 4, 8, 0, False, true_targets)
        folder = tmp_path / str(len(true_targets))
        inputs = TrajectoryInputs(teacher, source, SceneTriples(), plan, "")
        caches.append(build_cache(inputs, folder, Console(quiet=True)))
    sampled, straight = caches
    assert set(straight) > {"edit", "super-resolve"}
    for task, dataset in straight.items():
        one, other = dataset.take([0]), sampled[task].take([0])
        assert torch.equal(one.ids, other.ids) and torch.equal(one.points[:, 0], other.points[:, 0])
        if task in ("generate", "inpaint"):
            assert torch.equal(one.points, other.points)
            continue
        assert torch.allclose(one.points[:, -1], one.truth, atol=1e-3)
        assert not torch.allclose(one.points[:, -1], other.points[:, -1], atol=1e-2)
        middle = (one.points[:, 0] + one.points[:, -1]) / 2
        assert torch.allclose(one.points[:, one.points.shape[1] // 2], middle, atol=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_targets_take_every_segment_to_the_teachers_point(
    checkpoint: Path, tmp_path: Path, steps: int
) -> None:
    samples, points = samples_of(stage_of(checkpoint, tmp_path, student_steps=steps, flow_fraction=0.0))
    z, target, grid = (
        by_segment(samples.z, steps),
        by_segment(samples.target, steps),
        uniform_grid(steps),
    )
    for index in range(steps):
        end = euler_step(z[:, index], target[:, index], grid[index], grid[index + 1])
        assert torch.allclose(end, points[:, index + 1], atol=1e-5)
    assert torch.equal(by_segment(samples.t, steps)[0], torch.tensor(grid[:-1]))


def test_the_last_steps_start_from_the_students_own_latents_and_end_at_the_teachers(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.0, on_policy_fraction=0.25)
    before, points = samples_of(stage, 14)
    own, own_points = samples_of(stage, 15)
    assert torch.equal(by_segment(before.z, 4), points[:, :4])
    z, target = (by_segment(value, 4) for value in (own.z, own.target))
    assert torch.equal(z[:, 0], own_points[:, 0]) and not torch.allclose(z[:, 1], own_points[:, 1], atol=1e-3)
    assert torch.allclose(z - 0.25 * target, own_points[:, 1:], atol=1e-5)
    always, points = samples_of(stage_of(checkpoint, tmp_path, flow_fraction=0.0, on_policy_fraction=1.0), 0)
    assert not torch.allclose(by_segment(always.z, 4)[:, 1], points[:, 1], atol=1e-3)


def test_noisy_starts_have_the_strength_of_perturb_and_still_end_at_the_teachers(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.0, on_policy_fraction=0.0, perturb=0.2)
    samples, points = samples_of(stage)
    z, target = by_segment(samples.z, 4), by_segment(samples.target, 4)
    assert torch.allclose(z - 0.25 * target, points[:, 1:], atol=1e-5)
    strength = (z - points[:, :4]).std((1, 2, 3, 4))  # (B,)
    assert bool((strength > 0.0).all()) and bool((strength < 0.21).all())
    assert float(strength.max()) > 2.0 * float(
        strength.min()
    )  # from none to all: the runtime's latents have none
    whole, half = stage.make_rows(3, WHOLE)[0], stage.make_rows(3, BatchShard(1, 2))[0]
    inputs, in_half = inputs_of(stage, 3), torch.isin(whole.places, half.places)
    assert torch.equal(start_noise(inputs, whole)[in_half], start_noise(inputs, half))


def test_an_on_policy_rollout_continues_from_the_noisy_latents(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.0)
    denoiser, text = stage.student.denoiser, stage._encode(stage.teacher.ids(["a red circle"], "generate"))
    first = stage.pipeline(stage.student)._noise((64, 64), 1, 3)
    ends = first[:, None].expand(-1, 5, -1, -1, -1)
    noise = torch.zeros_like(ends[:, :4])
    noise[:, 0] = 0.1
    with torch.no_grad():
        noisy, _ = chained(denoiser, ends, text, None, EVERYWHERE, noise)
        plain, _ = chained(denoiser, ends + 0.1, text, None, EVERYWHERE)
    assert torch.allclose(noisy, plain, atol=1e-6) and not torch.allclose(noisy[:, 1], first, atol=0.01)


def test_the_on_policy_rollout_and_its_plans_are_what_the_runtime_computes(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.0)
    pipeline = stage.pipeline(stage.student)
    prompts = ["a red circle", "a blue square"]
    text = stage._encode(stage.teacher.ids(prompts, "generate"))
    noise = pipeline._noise((64, 64), 2, 3)
    with torch.no_grad():
        starts, plans = chained(
            stage.student.denoiser, noise[:, None].expand(-1, 5, -1, -1, -1), text, None, EVERYWHERE
        )
    latents, plans_seen = [noise], []
    hook = pipeline.planner.register_forward_hook(lambda module, inputs, result: plans_seen.append(result))
    pipeline.text2img(prompts, seed=3, callback=lambda step, steps, z: latents.append(z))
    hook.remove()
    assert torch.allclose(starts, torch.stack(latents[:4], 1), atol=1e-5)
    assert torch.allclose(plans[:, 1:], torch.stack(plans_seen[:3], 1), atol=1e-5)


def test_the_on_policy_rollout_of_inpainting_blends_known_latents_as_the_runtime_does(
    editing_checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, trajectories=16, flow_fraction=0.0)
    teacher, pipeline = stage.teacher, stage.pipeline(stage.student)
    examples = SceneTriples().triples("inpaint", 0, 3, 1, range(1), (64, 64), "cpu")
    assert examples.masks is not None
    noise, truth = pipeline._noise((64, 64), 1, 3), teacher.latents(examples.targets)
    changing = torch.nn.functional.max_pool2d(examples.masks.float(), pipeline.vae.spec.downsample) > 0
    ends = torch.stack([interpolate(truth, noise, torch.tensor([t])) for t in uniform_grid(4)], 1)
    assert not bool(changing.all())
    ends[:, 1:] += changing[:, None]  # latents of the teacher, elsewhere those of the data
    batch = TrajectoryBatch(
        ends, truth, teacher.ids(examples.texts, "inpaint"), teacher.latents(examples.sources)
    )
    no_flow = torch.zeros(1, dtype=torch.bool)
    rows = DistillRows(["inpaint"], torch.zeros(1, dtype=torch.long), batch, no_flow)
    assert torch.equal(sampled_latents(rows), changing)
    assert bool(sampled_latents(replace(rows, tasks=["edit"])).all())
    with torch.no_grad():
        starts, _ = chained(
            stage.student.denoiser, ends, stage._encode(batch.ids), batch.source, sampled_latents(rows)
        )
    latents = [noise]
    (prompt,) = examples.texts
    pipeline.inpaint(
        examples.targets,
        examples.masks.float(),
        prompt,
        seed=3,
        callback=lambda step, steps, z: latents.append(z),
    )
    assert torch.allclose(starts, torch.stack(latents[:4], 1), atol=1e-4)


def test_skip_targets_are_exact_at_a_segments_end_and_the_ema_networks_elsewhere(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, skip=2, flow_fraction=0.0)
    samples, points = samples_of(stage)
    z, target, t = (by_segment(value, 4) for value in (samples.z, samples.target, samples.t))
    end = torch.tensor(uniform_grid(4)[1:])
    landed = z - (t - end).reshape(8, 4, 1, 1, 1) * target
    last = ((t - end) * 8).round() == 1  # one skip before the end
    assert bool(last.any()) and not bool(last.all())
    error = (landed - points[:, 2::2]).abs().amax((2, 3, 4))
    assert float(error[last].max()) < 1e-5 < float(error[~last].min())
    assert torch.allclose(by_segment(samples.length, 4), (t - end) * 4)


def test_the_target_network_follows_the_student_once_a_step_and_is_not_trained(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, accumulate=2, skip=2, target_ema=0.75)
    target, student = stage.student.target, stage.student.denoiser
    assert target is not None and not any(p.requires_grad for p in target.parameters())
    with torch.no_grad():
        student.backbone.head.bias.add_(1.0)
        before = target.backbone.head.bias.clone()
        for index in range(2):
            stage.loss(1, BatchShard(index, 2))
    assert torch.allclose(target.backbone.head.bias - before, torch.full_like(before, 0.25), atol=1e-6)


@pytest.mark.parametrize("skip", [None, 2])
def test_loss_of_a_batch_is_the_mean_over_its_pieces(
    editing_checkpoint: Path, tmp_path: Path, skip: int | None
) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, trajectories=12, skip=skip, flow_fraction=0.25)
    with torch.no_grad():
        whole = stage.loss(0, WHOLE)
        parts = [stage.loss(0, BatchShard(index, 2)) for index in range(2)]
    assert {"loss", "segment", "flow", "segment_edit", "segment_super_resolve"} <= set(whole)
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert torch.allclose(mean, value, rtol=1e-4, atol=1e-5), name
    shares = stage.shares
    tasks = sum(share * float(whole[f"segment_{task.replace('-', '_')}"]) for task, share in shares.items())
    assert float(whole["segment"]) == pytest.approx(tasks, rel=1e-4)


def test_rows_with_the_flow_loss_are_their_fraction_of_every_batch_and_have_its_targets(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.25)
    rows = stage.make_rows(0, WHOLE)[0]
    assert int(rows.with_flow.sum()) == 2
    samples, _ = samples_of(stage)
    with_flow = rows.with_flow.repeat_interleave(4)
    truth = rows.trajectories.truth.repeat_interleave(4, 0)
    clean = samples.z - samples.t.reshape(-1, 1, 1, 1) * samples.target  # z_t - t (noise - z0)
    assert torch.allclose(clean[with_flow], truth[with_flow], atol=1e-4)
    assert not torch.allclose(clean[~with_flow], truth[~with_flow], atol=0.1)


def test_student_learns_to_end_where_its_teacher_does(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, flow_fraction=0.0, steps=60, on_policy_fraction=0.15)
    optimizers = make_optimizers(stage.network, RATE)
    points = stage.trajectories["generate"].take(range(8))
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


def settings_of(**values: Any) -> DistillSettings:
    """The preset of nano with ``values``."""
    return with_values(distill_preset("nano"), values, "settings")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"student_steps": 3}, "student_steps is 3; allowed: 1, 2, 4, 8"),
        ({"skip": 3}, "skip is 3; a segment of 4 student steps has 4 teacher steps; allowed: 1, 2"),
        ({"flow_fraction": 1.0}, "flow_fraction is 1"),
        ({"on_policy_fraction": 2}, r"on_policy_fraction is 2\.0; allowed: 0 to 1"),
        ({"perturb": -0.1}, r"perturb is -0\.1; allowed: 0 up to 1"),
        (
            {"skip": 1, "perturb": 0.1},
            "perturb needs targets at the end of a segment and cannot be used with skip",
        ),
        ({"generate_share": 1.0}, "generate_share is 1"),
        ({"optimizer": {"kind": "sgd"}}, "optimizer is 'sgd'; allowed: adamw, muon"),
        ({"optimizer": {"ema": 1}}, r"ema is 1\.0; allowed: 0 up to 1"),
    ],
)
def test_settings_refuse_grids_skips_and_shares_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        settings_of(**values)


def test_settings_say_how_many_intervals_a_cache_stores() -> None:
    settings = settings_of(skip=1, optimizer={"learning_rate": 1e-4, "kind": "muon", "ema": 0.9})
    assert settings.optimizer.kind == "muon" and settings.optimizer.ema == 0.9
    assert settings.intervals == settings.cached_intervals == 16
    assert math.isclose(settings.optimizer.learning_rate, 1e-4)
    assert settings_of(student_steps=2).cached_intervals == 8


def test_student_spec_refuses_other_steps_and_guidance_by_name(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path / "cache", student_steps=2, trajectories=2)
    stage.write(tmp_path / "student", stage.student)
    student = MicroForgePipeline.from_pretrained(tmp_path / "student")
    assert student.spec.sampler.timesteps == (1.0, 0.5, 0.0) and student.spec.sampler.guidance_distilled
    assert student.stages[-1] == "distill"
    with pytest.raises(SpecError, match="steps is 4; this model was distilled to 2"):
        student.text2img("a red circle", num_steps=4)
    with pytest.raises(SpecError, match="guidance is 3; it is in the weights"):
        student.text2img("a red circle", guidance=3.0)
    calls: list[int] = []
    student.denoiser.register_forward_hook(lambda module, inputs, result: calls.append(len(result[0])))
    student.text2img(["a red circle", "a blue square"])
    assert calls == [2, 2]  # one evaluation a step, no second branch


def test_student_edits_with_one_evaluation_a_step(editing_checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(editing_checkpoint, tmp_path, trajectories=8)
    student = stage.pipeline(stage.student)
    examples = SceneTriples().triples("inpaint", 0, 0, 1, range(1), (64, 64), "cpu")
    assert examples.masks is not None
    calls: list[int] = []
    student.denoiser.register_forward_hook(lambda module, inputs, result: calls.append(1))
    student.edit(examples.targets, "make it red")
    student.inpaint(examples.targets, examples.masks)
    assert len(calls) == 8
    sheet = stage.sheet(stage.student)
    assert sheet.shape[0] == 3 and bool(sheet.isfinite().all())


def test_a_student_on_the_int8_grid_is_written_so_and_has_the_teachers_vae(
    checkpoint: Path, tmp_path: Path
) -> None:
    stage = stage_of(checkpoint, tmp_path / "cache", trajectories=2, int8_grid=True)
    stage.write(tmp_path / "student", stage.student)
    written, teacher = read_checkpoint(tmp_path / "student").tensors, read_checkpoint(checkpoint).tensors
    matrices = [key for key in written if key.startswith("backbone.") and written[key].ndim == 2]
    on_grid = [key for key in matrices if torch.allclose(rounded(written[key]), written[key], atol=1e-6)]
    off_grid = [key for key in matrices if torch.allclose(rounded(teacher[key]), teacher[key], atol=1e-6)]
    assert len(on_grid) > 0.8 * len(matrices) and not off_grid
    vae = [key for key in written if key.startswith("vae.")]
    assert vae and all(torch.equal(written[key], teacher[key]) for key in vae)


def test_a_target_network_exists_only_where_it_is_needed(checkpoint: Path, tmp_path: Path) -> None:
    stage = stage_of(checkpoint, tmp_path, trajectories=2)
    assert stage.student.target is None
    folder = tmp_path / "segment"
    segment = stage_of(checkpoint, folder, trajectories=2, skip=2)
    segment.write(tmp_path / "student", segment.student)
    names = {name.split(".")[0] for name in read_checkpoint(tmp_path / "student").tensors}
    assert names == {"vae", "backbone", "planner", "text_encoder"}
    assert (
        replace(segment.settings, skip=None).name == "distill-4"
        and segment.settings.name == "distill-4-skip-2"
    )
