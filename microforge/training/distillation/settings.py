"""Every number of step distillation (stage 6, SPEC section 5), typed, with presets per model size."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, replace

from microforge.errors import SpecError
from microforge.training.settings import OptimizerSettings

#: Step counts that a student can have, each a uniform grid.
STUDENT_STEPS = (1, 2, 4, 8)
#: Guided steps of the teacher, of the second order: at least as exact as 32 of the first (docs/log.md), at half the price.
TEACHER_STEPS = 16
TEACHER_ORDER = 2
#: Intervals between the points that are kept of a drawing: one cache serves every step count.
KEPT_INTERVALS = 8


@dataclass(frozen=True)
class DistillSettings:
    """One student: its grid, its targets and how it learns.

    ``batch`` drawings give ``steps`` training samples each, one per window, which share a caption and a chain of
    plans. ``anchor`` of the drawings train on the flow loss instead. ``generate`` is the share of plain generation among
    the drawings of a teacher that knows more; None: the edit stage's mix. ``skip`` None: a window's target is its end,
    exactly as the teacher reached it; a number: ``skip`` teacher steps further on, from where a slow copy of the
    student jumps (segment-CD, arXiv 2403.06807). ``perturb`` shows a student the neighbourhood
    of its latents, too (randomized smoothing, arXiv 1902.02918).
    """

    optimizer: OptimizerSettings
    steps: int = 4
    skip: int | None = None
    updates: int = 4_000
    batch: int = 48
    drawings: int = 8_192
    huber: float = (
        0.03  # where the pseudo-Huber loss turns from a parabola to a cone, in velocity per latent number
    )
    anchor: float = 0.1
    generate: float | None = None
    own: float = (
        0.1  # share of the updates, the last ones, whose windows start from the student's own rollout
    )
    perturb: float = 0.0  # noise on the windows' starts: its largest standard deviation, in latents
    int8_grid: bool = False  # what is written has weights that INT8 stores without loss
    target_ema: float = 0.95  # of the slow copy
    diversity: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps not in STUDENT_STEPS:
            allowed = ", ".join(map(str, STUDENT_STEPS))
            raise SpecError(f"the student's steps are {self.steps}; allowed: {allowed}")
        if self.skip is not None and (not 0 < self.skip < self.window or self.window % self.skip):
            allowed = ", ".join(str(n) for n in range(1, self.window) if self.window % n == 0)
            raise SpecError(
                f"skip is {self.skip}; a window of {self.steps} steps holds {self.window} of the teacher's: "
                f"allowed: {allowed or 'none'}"
            )
        for name, least in (("updates", 0), ("batch", 1), ("drawings", 1)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        for name in ("anchor", "target_ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: 0 up to 1")
        if not 0.0 <= self.own <= 1.0:
            raise SpecError(f"the share of own rollouts is {self.own}; allowed: 0 to 1")
        if self.generate is not None and not 0.0 < self.generate < 1.0:
            raise SpecError(f"the share of generate is {self.generate}; allowed: above 0 and below 1")
        if not 0.0 <= self.perturb < 1.0:
            raise SpecError(f"perturb is {self.perturb}; allowed: 0 up to 1")
        if self.perturb > 0.0 and self.skip is not None:
            raise SpecError("perturbed starts belong to windows with an exact end, not to skip")
        if self.huber <= 0.0:
            raise SpecError(f"huber is {self.huber}; allowed: above 0")

    @property
    def window(self) -> int:
        """Teacher steps in a window."""
        return TEACHER_STEPS // self.steps

    @property
    def intervals(self) -> int:
        """Intervals between the points of a drawing that training needs."""
        return self.steps if self.skip is None else TEACHER_STEPS // self.skip

    @property
    def kept(self) -> int:
        """Intervals that a new cache keeps: enough for every step count."""
        return max(KEPT_INTERVALS, self.intervals)

    @property
    def name(self) -> str:
        """What a run on disk is called."""
        return f"distill-{self.steps}" + ("" if self.skip is None else f"-skip-{self.skip}")


def _rate(learning_rate: float) -> OptimizerSettings:
    return OptimizerSettings(learning_rate, warmup_steps=100, decay_fraction=0.4)


# Every drawing is seen six to eight times: the shipped nano learned 1,152 drawings by heart in ten rounds (docs/log.md).
DISTILL_SETTINGS: Mapping[str, DistillSettings] = types.MappingProxyType({
    "nano": DistillSettings(_rate(5e-4), drawings=32_768),
    "tiny": DistillSettings(_rate(3e-4), updates=10_000, batch=64, drawings=98_304),
    "small": DistillSettings(_rate(5e-5), updates=8_000, batch=64, drawings=65_536),
    "base": DistillSettings(_rate(2e-5), updates=8_000, batch=64, drawings=65_536),
})  # fmt: skip


def distill_settings(config: str, **given: object) -> DistillSettings:
    """The preset of ``config`` with the values of ``given`` that are not None.

    Args:
        given: fields of ``DistillSettings``, and ``learning_rate``, ``kind`` and ``ema`` of its optimizer.

    Raises:
        SpecError: for a value that is not allowed; a configuration without a preset has tiny's.
    """
    preset = DISTILL_SETTINGS[config if config in DISTILL_SETTINGS else "tiny"]
    values = {name: value for name, value in given.items() if value is not None}
    own = {name: values.pop(name) for name in ("learning_rate", "kind", "ema") if name in values}
    if own:
        values["optimizer"] = replace(preset.optimizer, **own)  # type: ignore[arg-type]
    return replace(preset, **values)  # type: ignore[arg-type]
