"""The teacher's trajectories end in the images of the reference pipeline, for every task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from microforge.checkpoint import read_checkpoint
from microforge.data.world.edit_triples import SceneTriples
from microforge.pipeline import MicroForgePipeline
from microforge.sampling import uniform_grid
from microforge.training.distillation import teacher as teacher_module
from microforge.training.distillation.rollout import RolloutGrid, RolloutInputs, guided_rollout
from microforge.training.distillation.teacher import FrozenTeacher, TrajectoryPlan

GRID = uniform_grid(4)


def _pair(folder: Path) -> tuple[FrozenTeacher, MicroForgePipeline]:
    torch.set_num_threads(1)
    return FrozenTeacher(read_checkpoint(folder), "cpu"), MicroForgePipeline.from_pretrained(folder)


def _image(pipeline: MicroForgePipeline, points: Tensor) -> Tensor:
    with torch.no_grad():
        return pipeline.vae.decode(pipeline.vae.denormalize(points[:, -1])).clamp(0, 1)


def test_guided_rollout_ends_in_the_pipelines_image(checkpoint: Path) -> None:
    teacher, pipeline = _pair(checkpoint)
    texts = ["a red circle", "a blue square on white"]
    noise = pipeline._noise((64, 64), 2, 5)
    inputs = RolloutInputs(teacher.ids(texts, "generate"), teacher.ids([None], "generate"))
    points = guided_rollout(teacher.network, inputs, noise, RolloutGrid(GRID, 2), teacher.spec.sampler)
    assert points.shape == (2, 3, 4, 2, 2) and torch.equal(points[:, 0], noise)
    assert torch.allclose(_image(pipeline, points), pipeline.text2img(texts, seed=5), atol=1e-5)


def test_guided_rollout_of_second_order_is_closer_to_a_smooth_path_than_eulers(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dz/dt = cos(t) z has the end z(0) = z(1) exp(-sin 1)."""
    teacher, pipeline = _pair(checkpoint)
    denoiser = teacher.network.denoiser
    monkeypatch.setattr(denoiser, "forward", lambda z, t, *rest: (t.cos().reshape(-1, 1, 1, 1) * z, rest[3]))
    inputs = RolloutInputs(teacher.ids(["a red circle"], "generate"), teacher.ids([None], "generate"))
    noise = pipeline._noise((64, 64), 1, 5)
    path = noise * torch.exp(-torch.sin(torch.tensor(1.0)))

    def error(order: int) -> float:
        points = guided_rollout(
            teacher.network, inputs, noise, RolloutGrid(uniform_grid(16), 16, order), teacher.spec.sampler
        )
        return float((points[:, -1] - path).norm() / path.norm())

    assert error(2) < 0.2 * error(1)


@pytest.mark.parametrize("task", ["edit", "inpaint"])
def test_guided_rollout_of_a_task_with_a_source_ends_in_the_pipelines_image(
    editing_checkpoint: Path, task: str
) -> None:
    teacher, pipeline = _pair(editing_checkpoint)
    examples = SceneTriples().triples(task, 0, 0, 2, range(2), (64, 64), "cpu")
    noise = pipeline._noise((64, 64), 2, 0)
    ids, empty = teacher.ids(examples.texts, task), teacher.ids([None], task)
    prompts = [text for text in examples.texts if text is not None]
    source = teacher.latents(examples.sources)
    after = teacher._after_step(task, teacher.latents(examples.targets), source, noise, examples.masks)
    points = guided_rollout(
        teacher.network,
        RolloutInputs(ids, empty, source),
        noise,
        RolloutGrid(GRID, 1),
        teacher.spec.sampler,
        after,
    )
    image = _image(pipeline, points)
    if examples.masks is None:
        assert torch.allclose(image, pipeline.edit(examples.sources, prompts), atol=1e-5)
    else:
        wanted = pipeline.inpaint(examples.targets, examples.masks, prompts)
        final = torch.where(examples.masks > 0, image, examples.targets)
        assert torch.allclose(final, wanted, atol=1e-5)


def test_teacher_generates_a_file_from_its_number_alone(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_module, "TEACHER_STEPS", 8)
    teacher, _ = _pair(checkpoint)
    plan = TrajectoryPlan({"generate": 2}, (64, 64), 4, 8, 0, False)
    triples = SceneTriples().triples("inpaint", 0, 0, 2, range(2), (64, 64), "cpu")
    examples = replace(triples, masks=None)
    one, again, other = (teacher.generate(examples, "generate", number, plan) for number in (0, 0, 1))
    assert torch.equal(one.points, again.points) and not torch.equal(one.points, other.points)


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_an_earlier_student_generates_in_its_own_steps_without_guidance(
    editing_checkpoint: Path, task: str
) -> None:
    checkpoint = read_checkpoint(editing_checkpoint)
    sampler = replace(checkpoint.spec.sampler, timesteps=(1.0, 0.5, 0.0), guidance_distilled=True)
    student = replace(checkpoint, spec=replace(checkpoint.spec, sampler=sampler))
    generator, pipeline = FrozenTeacher(student, "cpu"), MicroForgePipeline.from_checkpoint(student)
    triples = SceneTriples().triples("edit", 0, 0, 2, range(2), (64, 64), "cpu")
    prompts = [text for text in triples.texts if text is not None]
    points = generator.generate(triples, task, 0, TrajectoryPlan({task: 2}, (64, 64), 2, 8, 0, False)).points
    assert points.shape == (2, 3, 4, 2, 2)
    noise = points[:, 0]
    pipeline._noise = lambda *_: noise  # type: ignore[method-assign]
    wanted = (
        pipeline.text2img(prompts, 64, 64) if task == "generate" else pipeline.edit(triples.sources, prompts)
    )
    assert torch.allclose(_image(pipeline, points), wanted, atol=1e-5)
