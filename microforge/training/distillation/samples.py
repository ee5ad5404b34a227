"""What a student is asked at one training step: window starts, targets and plans from cached drawings (SPEC 5).

Letters: B drawings, W windows, P points of a drawing, L text tokens, E text width, C h w latent channels, height and
width, K plan tokens, D width. ``points`` (B, P, C, h, w) run from noise to image; P - 1 is a multiple of W.
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
from microforge.training.distillation.trajectory_cache import Shard as Drawn
from microforge.training.engine.optimizers import update_ema
from microforge.training.engine.state import step_generator
from microforge.training.stages.flow import FlowNetwork

#: Encoded prompts: sequence (B, L, E), mask (B, L), pooled (B, E).
Text = tuple[Tensor, Tensor, Tensor]
#: RIN's share of samples with a previous plan, for the rows that keep the flow loss.
SELF_CONDITION = 0.9


class Student(FlowNetwork):
    """The network that is trained, and for segment-CD a slow copy of its denoiser that gives the targets."""

    slow: Denoiser | None

    def __init__(self, spec: ModelSpec, with_slow: bool) -> None:
        super().__init__(spec)
        self.slow = None
        if with_slow:
            self.slow = Denoiser(build_backbone(spec), build_planner(spec)).requires_grad_(False)

    def follow(self, decay: float) -> None:
        """Move the slow copy toward the network."""
        if self.slow is not None:
            update_ema(self.slow, self.denoiser, decay, step=10**9)


@dataclass(frozen=True)
class Rows:
    """Drawings of one layout (all with a source, or none) of a step's batch."""

    tasks: list[str]
    places: Tensor  # (B,) in the whole batch, of all processes and micro-batches
    drawn: Drawn
    anchor: Tensor  # (B,) bool: keeps the flow loss


@dataclass(frozen=True)
class Samples:
    """One forward pass: (B * W, ...) each, a drawing's windows side by side."""

    z: Tensor  # (B W, C, h, w)
    t: Tensor  # (B W,)
    target: Tensor  # velocities (B W, C, h, w)
    previous: Tensor  # (B W, K, D)
    has_plan: Tensor  # (B W,)
    reach: Tensor  # (B W,) how far the jump goes, in windows


@torch.no_grad()
def window_samples(
    student: Student, rows: Rows, text: Text, settings: DistillSettings, step: int, seed: int
) -> Samples:
    """The windows of ``rows``, and the flow's own task for those that are anchors."""
    drawn, windows = rows.drawn, settings.steps
    each = (drawn.points.shape[1] - 1) // windows
    ends = drawn.points[:, ::each]  # (B, W + 1, C, h, w)
    own = settings.skip is None and step >= (1.0 - settings.own) * settings.updates
    hole = redrawn(rows) if own else None
    noise = perturbation(rows, settings, step, seed) if settings.perturb > 0.0 else None
    starts, previous = chained(student.denoiser, ends, text, drawn.source, hole, noise)
    device = starts.device
    index = torch.arange(windows, device=device).expand(len(starts), -1)  # (B, W)
    has_plan = (index > 0).float()
    t = 1.0 - index / windows
    samples = Samples(
        starts.flatten(0, 1), t.flatten(), ((starts - ends[:, 1:]) * windows).flatten(0, 1),
        previous.flatten(0, 1), has_plan.flatten(), torch.ones(starts.shape[:2], device=device).flatten(),
    )  # fmt: skip
    if settings.skip is not None:
        generator = step_generator(seed, TensorStream.SKIP_POSITION + step)
        place = torch.randint(each, (settings.batch, windows), generator=generator).to(device)[rows.places]
        samples = segment(student, samples, rows, text, index * each + place)
    if bool(rows.anchor.any()):
        samples = _with_anchors(student, samples, rows, text, settings, step, seed)
    return samples


def redrawn(rows: Rows) -> Tensor:
    """(B, 1, h, w) bool: the cells whose latents are the network's own while it draws ``rows``.

    All of them but the known ones of inpainting, which each step blends back (SPEC section 6): there the teacher's
    last latents are the data's, to the bit.
    """
    drawn = rows.drawn
    apart = (drawn.points[:, -1] != drawn.truth).any(1, keepdim=True)
    fills = torch.tensor([task == "inpaint" for task in rows.tasks], device=apart.device)
    return apart | ~fills.reshape(-1, 1, 1, 1)


def perturbation(rows: Rows, settings: DistillSettings, step: int, seed: int) -> Tensor:
    """Noise (B, W, C, h, w) for the starts of the windows of ``rows``, the same however a batch is cut into pieces.

    Every drawing has a strength of its own, from none to ``settings.perturb``: the runtime's latents have none.
    """
    points, places = rows.drawn.points, rows.places.cpu()
    generator = step_generator(seed, TensorStream.START_NOISE + step)
    noise = torch.randn(settings.batch, settings.steps, *points.shape[2:], generator=generator)[places]
    strength = settings.perturb * torch.rand(settings.batch, 1, 1, 1, 1, generator=generator)[places]
    return (strength * noise).to(points.device)


def chained(
    denoiser: Denoiser, ends: Tensor, text: Text, source: Tensor | None, hole: Tensor | None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Starts (B, W, C, h, w) and previous plans (B, W, K, D) of the windows; the plans are the student's own.

    Args:
        ends: (B, W + 1, C, h, w), the teacher's latents at the grid.
        hole: (B, 1, h, w), where to start from the student's own rollout instead of the teacher's latents; None: nowhere.
        noise: (B, W, C, h, w), added to every start; an own rollout goes on from there.
    """
    windows = ends.shape[1] - 1
    z = ends[:, 0] if noise is None else ends[:, 0] + noise[:, 0]
    plan = denoiser.planner.empty(len(z), z.device)
    starts, plans = [z], [plan]
    for index in range(windows - 1):
        t = torch.full((len(z),), 1.0 - index / windows, device=z.device)
        has_plan = torch.full((len(z),), float(index > 0), device=z.device)
        reached = ends[:, index + 1]
        if hole is not None:
            velocity, plan = denoiser(z, t, *text, plan, has_plan, source)
            z = torch.where(hole, z - velocity.float() / windows, reached)
        else:
            plan = denoiser.planner(z, t, text[2], plan, has_plan, source)
            z = reached
        if noise is not None:
            z = z + noise[:, index + 1]
        plan = plan.float()
        starts.append(z)
        plans.append(plan)
    return torch.stack(starts, 1), torch.stack(plans, 1)


def segment(student: Student, samples: Samples, rows: Rows, text: Text, first: Tensor) -> Samples:
    """Segment-CD (arXiv 2403.06807): from point ``first`` (B, W), to where the slow copy jumps from the point after it.

    The last point of a window is its end, where the target is exact.
    """
    assert student.slow is not None
    points, windows = rows.drawn.points, first.shape[1]
    total = points.shape[1] - 1
    batch = torch.arange(len(points), device=points.device)[:, None]
    z, after = points[batch, first].flatten(0, 1), points[batch, first + 1].flatten(0, 1)
    t, t_after = (1.0 - first / total).flatten(), (1.0 - (first + 1) / total).flatten()
    end = samples.t - 1.0 / windows
    wide = tuple(value.repeat_interleave(windows, 0) for value in text)
    source = repeated(rows.drawn.source, windows)
    jump, _ = student.slow(after, t_after, *wide, samples.previous, samples.has_plan, source)
    goal = after - (t_after - end).reshape(-1, 1, 1, 1) * jump.float()
    length = t - end
    target = (z - goal) / length.reshape(-1, 1, 1, 1)
    return Samples(z, t, target, samples.previous, samples.has_plan, length * windows)


def _with_anchors(
    student: Student,
    samples: Samples,
    rows: Rows,
    text: Text,
    settings: DistillSettings,
    step: int,
    seed: int,
) -> Samples:
    """``samples`` with the flow's own task, at any time on the data's latents, where ``rows`` are anchors."""
    windows, drawn, device = settings.steps, rows.drawn, samples.z.device
    kept = rows.anchor.nonzero()[:, 0]  # (A,)
    truth = drawn.truth[kept].repeat_interleave(windows, 0)  # (A W, C, h, w)
    generator = step_generator(seed, TensorStream.FLOW_NOISE + step)
    noise = torch.randn(settings.batch, windows, *truth.shape[1:], generator=generator)
    chance = torch.rand(2, settings.batch, windows, generator=generator)
    places = rows.places[kept].cpu()
    noise = noise[places].flatten(0, 1).to(device)
    t, lot = (value[places].flatten().to(device) for value in chance)
    has_plan = (lot < SELF_CONDITION).float()
    z, source = interpolate(truth, noise, t), repeated(drawn.source, windows)
    where = (kept[:, None] * windows + torch.arange(windows, device=device)).flatten()
    planner = student.denoiser.planner
    pooled = text[2][kept].repeat_interleave(windows, 0)
    own_source = None if source is None else source[where]
    previous = planner(z, t, pooled, planner.empty(len(z), device), torch.zeros_like(t), own_source).float()
    return Samples(
        samples.z.index_copy(0, where, z), samples.t.index_copy(0, where, t),
        samples.target.index_copy(0, where, velocity_target(truth, noise)),
        samples.previous.index_copy(0, where, previous), samples.has_plan.index_copy(0, where, has_plan), samples.reach,
    )  # fmt: skip


def repeated(value: Tensor | None, times: int) -> Tensor | None:
    """Every row ``times`` times in a row; None stays None."""
    return None if value is None else value.repeat_interleave(times, 0)
