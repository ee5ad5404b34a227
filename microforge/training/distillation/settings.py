"""Settings of step distillation (SPEC section 5), with presets per model size."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass

from microforge.errors import SpecError
from microforge.training.settings import OptimizerSettings, TrainingSettings

#: Sampling steps that a student can have, each on a uniform time grid.
STUDENT_STEPS = (1, 2, 4, 8)
#: Teacher steps (second-order Adams-Bashforth); as accurate as 32 Euler steps (docs/log.md).
TEACHER_STEPS = 16
TEACHER_ORDER = 2
#: Intervals between the cached points of a trajectory: one cache serves every step count.
CACHED_INTERVALS = 8


@dataclass(frozen=True)
class DistillSettings(TrainingSettings):
    """One student: its time grid, its targets and how it is trained.

    A segment is the part of the time axis that one step of the student covers. Each of the ``batch`` trajectories of a step
    gives ``student_steps`` training samples, one per segment, which share a caption and a chain of plans. ``skip`` selects
    segment consistency distillation (arXiv 2403.06807).
    """

    steps: int = 4_000  # optimizer steps; 0 only writes the student of a task-vector update
    batch: int = 48  # trajectories per step
    student_steps: int = 4  # sampling steps of the student
    skip: int | None = None  # target N teacher steps ahead; by default the end of the segment
    trajectories: int = 8_192  # teacher trajectories to train on, of all tasks
    huber: float = 0.03  # transition of the pseudo-Huber loss, in velocity per latent element
    flow_fraction: float = 0.1  # fraction of the trajectories that keep the flow loss instead
    generate_share: float | None = None  # share of text-to-image; by default the edit stage's mix
    on_policy_fraction: float = 0.1  # fraction of steps, the last ones, from the student's own samples
    perturb: float = 0.0  # largest standard deviation of noise on segment starts (arXiv 1902.02918)
    int8_grid: bool = False  # write weights that INT8 represents without loss
    target_ema: float = 0.95  # decay of the network that gives the targets of skip
    diversity: float = 1e-2  # weight of the plan similarity

    def __post_init__(self) -> None:
        if self.student_steps not in STUDENT_STEPS:
            allowed = ", ".join(map(str, STUDENT_STEPS))
            raise SpecError(f"student_steps is {self.student_steps}; allowed: {allowed}")
        self._check_skip()
        for name, least in (("steps", 0), ("batch", 1), ("trajectories", 1)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        for name in ("flow_fraction", "target_ema", "perturb"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: 0 up to 1")
        if not 0.0 <= self.on_policy_fraction <= 1.0:
            raise SpecError(f"on_policy_fraction is {self.on_policy_fraction}; allowed: 0 to 1")
        if self.generate_share is not None and not 0.0 < self.generate_share < 1.0:
            raise SpecError(f"generate_share is {self.generate_share}; allowed: above 0 and below 1")
        if self.huber <= 0.0:
            raise SpecError(f"huber is {self.huber}; allowed: above 0")

    def _check_skip(self) -> None:
        segment = self.teacher_steps_per_segment
        if self.skip is None:
            return
        if not 0 < self.skip < segment or segment % self.skip:
            allowed = ", ".join(str(n) for n in range(1, segment) if segment % n == 0)
            raise SpecError(
                f"skip is {self.skip}; a segment of {self.student_steps} student steps has {segment} teacher steps; "
                f"allowed: {allowed or 'none'}"
            )
        if self.perturb > 0.0:
            raise SpecError("perturb needs targets at the end of a segment and cannot be used with skip")

    @property
    def teacher_steps_per_segment(self) -> int:
        """Teacher steps in one segment."""
        return TEACHER_STEPS // self.student_steps

    @property
    def intervals(self) -> int:
        """Intervals between the points of a trajectory that training needs."""
        return self.student_steps if self.skip is None else TEACHER_STEPS // self.skip

    @property
    def cached_intervals(self) -> int:
        """Intervals that a new cache stores: enough for every step count."""
        return max(CACHED_INTERVALS, self.intervals)

    @property
    def name(self) -> str:
        """The name of the run in its state."""
        return f"distill-{self.student_steps}" + ("" if self.skip is None else f"-skip-{self.skip}")


def _optimizer(learning_rate: float) -> OptimizerSettings:
    return OptimizerSettings(learning_rate, warmup_steps=100, decay_fraction=0.4)


# Every trajectory is seen six to eight times: nano overfitted 1,152 trajectories in ten epochs (docs/log.md).
DISTILL_SETTINGS: Mapping[str, DistillSettings] = types.MappingProxyType(
    {
        "nano": DistillSettings(_optimizer(5e-4), trajectories=32_768),
        "tiny": DistillSettings(_optimizer(3e-4), steps=10_000, batch=64, trajectories=98_304),
        "small": DistillSettings(_optimizer(5e-5), steps=8_000, batch=64, trajectories=65_536),
        "base": DistillSettings(_optimizer(2e-5), steps=8_000, batch=64, trajectories=65_536),
    }
)


def distill_preset(config: str) -> DistillSettings:
    """The preset of a configuration; tiny's for one without a preset."""
    return DISTILL_SETTINGS[config if config in DISTILL_SETTINGS else "tiny"]
