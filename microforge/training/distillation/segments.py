"""The training samples of one step of distillation: segment starts, targets and plans from cached trajectories (SPEC 5).

Letters: B trajectories, G segments, P points of a trajectory, L text tokens, E text width, C h w latent channels, height and
width, K plan tokens, D width. ``points`` (B, P, C, h, w) run from noise to image; P - 1 is a multiple of G.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from microforge.denoiser import Denoiser, build_backbone, build_planner
from microforge.sampling import interpolate, velocity_target
from microforge.spec import ModelSpec
from microforge.streams import TensorStream
from microforge.training.distillation.settings import DistillSettings
from microforge.training.distillation.trajectory_cache import TrajectoryBatch
from microforge.training.engine.optimizers import update_ema
from microforge.training.engine.state import step_generator
from microforge.training.stages.flow_network import FlowNetwork

#: Encoded prompts: sequence (B, L, E), mask (B, L), pooled (B, E).
EncodedText = tuple[Tensor, Tensor, Tensor]
#: Fraction of samples with a previous plan (RIN) among the rows with the flow loss.
SELF_CONDITION = 0.9


class Student(FlowNetwork):
    """The network that is trained, and for ``skip`` an EMA of its denoiser that gives the targets."""

    target: Denoiser | None

    def __init__(self, spec: ModelSpec, with_target: bool) -> None:
        """Build the network; ``with_target``: with the EMA of its denoiser."""
        super().__init__(spec)
        self.target = None
        if with_target:
            self.target = Denoiser(build_backbone(spec), build_planner(spec)).requires_grad_(False)

    def update_target(self, decay: float) -> None:
        """Move the EMA toward the network."""
        if self.target is not None:
            update_ema(self.target, self.denoiser, decay, step=10**9)


@dataclass(frozen=True)
class DistillRows:
    """The trajectories of one layout (all with a source, or none) of a step's batch."""

    tasks: list[str]
    places: Tensor  # (B,) in the whole batch, of all processes and micro-batches
    trajectories: TrajectoryBatch
    with_flow: Tensor  # (B,) bool: trained with the flow loss


@dataclass(frozen=True)
class StepInputs:
    """What the samples of one step depend on beside its rows."""

    student: Student
    settings: DistillSettings
    seed: int
    step: int


@dataclass(frozen=True)
class SegmentSamples:
    """The inputs and targets of one forward pass, (B * G, ...) each, with the segments of a trajectory side by side."""

    z: Tensor  # (B G, C, h, w)
    t: Tensor  # (B G,)
    target: Tensor  # velocities (B G, C, h, w)
    previous: Tensor  # (B G, K, D) plans
    has_plan: Tensor  # (B G,)
    length: Tensor  # (B G,) of the step to the target, in segments


@torch.no_grad()
def segment_samples(inputs: StepInputs, rows: DistillRows, text: EncodedText) -> SegmentSamples:
    """The segments of ``rows``, and the samples of the flow loss for the rows that have it."""
    settings, step = inputs.settings, inputs.step
    points, segments = rows.trajectories.points, settings.student_steps
    each = (points.shape[1] - 1) // segments
    ends = points[:, ::each]  # (B, G + 1, C, h, w)
    on_policy = settings.skip is None and step >= (1.0 - settings.on_policy_fraction) * settings.steps
    from_student = sampled_latents(rows) if on_policy else None
    noise = start_noise(inputs, rows) if settings.perturb > 0.0 else None
    source = rows.trajectories.source
    starts, previous = chained(inputs.student.denoiser, ends, text, source, from_student, noise)
    device = starts.device
    index = torch.arange(segments, device=device).expand(len(starts), -1)  # (B, G)
    samples = SegmentSamples(
        z=starts.flatten(0, 1),
        t=(1.0 - index / segments).flatten(),
        target=((starts - ends[:, 1:]) * segments).flatten(0, 1),
        previous=previous.flatten(0, 1),
        has_plan=(index > 0).float().flatten(),
        length=torch.ones(starts.shape[:2], device=device).flatten(),
    )
    if settings.skip is not None:
        generator = step_generator(inputs.seed, TensorStream.SKIP_POSITION + step)
        place = torch.randint(each, (settings.batch, segments), generator=generator).to(device)[rows.places]
        samples = skip_samples(inputs.student, samples, rows, text, index * each + place)
    if bool(rows.with_flow.any()):
        samples = _with_flow_samples(inputs, samples, rows, text)
    return samples


def sampled_latents(rows: DistillRows) -> Tensor:
    """(B, 1, h, w) bool: the latents of ``rows`` that a sampler computes.

    These are all of them, except the known ones of inpainting, which each step replaces (SPEC section 6): there the last
    point of the trajectory equals the latent of the data exactly.
    """
    trajectories = rows.trajectories
    differs = (trajectories.points[:, -1] != trajectories.truth).any(1, keepdim=True)
    inpaints = torch.tensor([task == "inpaint" for task in rows.tasks], device=differs.device)
    return differs | ~inpaints.reshape(-1, 1, 1, 1)


def start_noise(inputs: StepInputs, rows: DistillRows) -> Tensor:
    """Noise (B, G, C, h, w) for the segment starts of ``rows``, however the batch is cut into pieces.

    Every trajectory has its own strength between none and ``settings.perturb``.
    """
    settings, points, places = inputs.settings, rows.trajectories.points, rows.places.cpu()
    generator = step_generator(inputs.seed, TensorStream.START_NOISE + inputs.step)
    shape = (settings.batch, settings.student_steps, *points.shape[2:])
    noise = torch.randn(shape, generator=generator)[places]
    strength = settings.perturb * torch.rand(settings.batch, 1, 1, 1, 1, generator=generator)[places]
    return (strength * noise).to(points.device)


def chained(
    denoiser: Denoiser,
    ends: Tensor,
    text: EncodedText,
    source: Tensor | None,
    from_student: Tensor | None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Starts (B, G, C, h, w) and previous plans (B, G, K, D) of the segments; the plans are those of the student.

    Args:
        denoiser: The student's.
        ends: (B, G + 1, C, h, w), the teacher's latents on the student's grid.
        text: Encoded prompts.
        source: (B, C, h, w) source latents, or None.
        from_student: (B, 1, h, w) bool, where segments start from the student's latents (on-policy) instead of the
            teacher's; None: nowhere.
        noise: (B, G, C, h, w), added to every start; a rollout continues from the noisy start.
    """
    segments = ends.shape[1] - 1
    z = ends[:, 0] if noise is None else ends[:, 0] + noise[:, 0]
    plan = denoiser.planner.empty(len(z), z.device)
    starts, plans = [z], [plan]
    for index in range(segments - 1):
        t = torch.full((len(z),), 1.0 - index / segments, device=z.device)
        has_plan = torch.full((len(z),), float(index > 0), device=z.device)
        end = ends[:, index + 1]
        if from_student is not None:
            velocity, plan = denoiser(z, t, *text, plan, has_plan, source)
            z = torch.where(from_student, z - velocity.float() / segments, end)
        else:
            plan = denoiser.planner(z, t, text[2], plan, has_plan, source)
            z = end
        if noise is not None:
            z = z + noise[:, index + 1]
        plan = plan.float()
        starts.append(z)
        plans.append(plan)
    return torch.stack(starts, 1), torch.stack(plans, 1)


def skip_samples(
    student: Student, samples: SegmentSamples, rows: DistillRows, text: EncodedText, first: Tensor
) -> SegmentSamples:
    """Segment consistency distillation (arXiv 2403.06807), from the points ``first`` (B, G).

    The target is where the EMA network arrives at the end of the segment when it starts from the next point. The last point
    of a segment is its end, where the target is exact.
    """
    assert student.target is not None
    points, segments = rows.trajectories.points, first.shape[1]
    total = points.shape[1] - 1
    batch = torch.arange(len(points), device=points.device)[:, None]
    z, following = points[batch, first].flatten(0, 1), points[batch, first + 1].flatten(0, 1)
    t, t_following = (1.0 - first / total).flatten(), (1.0 - (first + 1) / total).flatten()
    end = samples.t - 1.0 / segments
    wide = tuple(value.repeat_interleave(segments, 0) for value in text)
    source = repeated(rows.trajectories.source, segments)
    velocity, _ = student.target(following, t_following, *wide, samples.previous, samples.has_plan, source)
    goal = following - (t_following - end).reshape(-1, 1, 1, 1) * velocity.float()
    length = t - end
    target = (z - goal) / length.reshape(-1, 1, 1, 1)
    return SegmentSamples(z, t, target, samples.previous, samples.has_plan, length * segments)


def _with_flow_samples(
    inputs: StepInputs, samples: SegmentSamples, rows: DistillRows, text: EncodedText
) -> SegmentSamples:
    """``samples`` with noisy latents of the data at any time where ``rows`` have the flow loss."""
    settings, device = inputs.settings, samples.z.device
    segments, trajectories = settings.student_steps, rows.trajectories
    chosen = rows.with_flow.nonzero()[:, 0]  # (A,)
    truth = trajectories.truth[chosen].repeat_interleave(segments, 0)  # (A G, C, h, w)
    generator = step_generator(inputs.seed, TensorStream.FLOW_NOISE + inputs.step)
    noise = torch.randn(settings.batch, segments, *truth.shape[1:], generator=generator)
    lots = torch.rand(2, settings.batch, segments, generator=generator)
    places = rows.places[chosen].cpu()
    noise = noise[places].flatten(0, 1).to(device)
    t, lot = (value[places].flatten().to(device) for value in lots)
    has_plan = (lot < SELF_CONDITION).float()
    z, source = interpolate(truth, noise, t), repeated(trajectories.source, segments)
    where = (chosen[:, None] * segments + torch.arange(segments, device=device)).flatten()
    planner = inputs.student.denoiser.planner
    pooled = text[2][chosen].repeat_interleave(segments, 0)
    chosen_source = None if source is None else source[where]
    empty = planner.empty(len(z), device)
    previous = planner(z, t, pooled, empty, torch.zeros_like(t), chosen_source).float()
    return SegmentSamples(
        samples.z.index_copy(0, where, z),
        samples.t.index_copy(0, where, t),
        samples.target.index_copy(0, where, velocity_target(truth, noise)),
        samples.previous.index_copy(0, where, previous),
        samples.has_plan.index_copy(0, where, has_plan),
        samples.length,
    )


def repeated(value: Tensor | None, times: int) -> Tensor | None:
    """Every row ``times`` times in succession; None stays None."""
    return None if value is None else value.repeat_interleave(times, 0)
