"""Every number of a training run, typed; presets per stage and model size.

The learning rate is constant after a warm-up and falls over the last ``decay_fraction`` of the steps
(warm-up, stable, decay; arXiv 2405.18392), so a run can be resumed with more steps than it started with.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace

from microforge.errors import SpecError

OPTIMIZERS = ("adamw", "muon")
#: Stages that learn from the model's own judged drawings, after all others.
SELF_TAUGHT = ("reward", "rewrite")
#: Stages that go on from a flow's weights, and those that may be given a teacher.
ON_A_FLOW, TAUGHT = ("edit", *SELF_TAUGHT), ("kd", "edit", *SELF_TAUGHT)
STAGES = ("vae", "flow", "kd", *ON_A_FLOW)
#: The stages whose networks have hidden matrices, and are worth compiling.
DENOISER_STAGES = STAGES[1:]


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with clipping, and a slower group without weight decay for the SSM's decay, B and C.

    ``kind`` "muon" gives the hidden matrices to Muon and leaves the rest to AdamW; see ``optimizers``.
    """

    learning_rate: float
    kind: str = "adamw"
    warmup_steps: int = 200
    decay_fraction: float = 0.3
    weight_decay: float = 0.01
    beta2: float = 0.99
    ssm_rate: float = 0.2
    clip: float = 2.0
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            raise SpecError(f"optimizer is {self.kind!r}; allowed: {', '.join(OPTIMIZERS)}")
        if not 0.0 < self.learning_rate < math.inf:
            raise SpecError(f"learning_rate is {self.learning_rate}; allowed: above 0")
        if not 0.0 <= self.ema < 1.0:
            raise SpecError(f"ema is {self.ema}; allowed: 0 up to 1")


@dataclass(frozen=True)
class VAESettings:
    """Stage 1. Weights of the loss terms are SPEC section 11's, where they were measured."""

    optimizer: OptimizerSettings
    steps: int = 20_000
    batch: int = 16
    kl: float = 1e-6
    gradient: float = 2.0
    pooled: float = 0.5
    pool_sizes: tuple[int, ...] = (4, 16, 64)
    crop: int | None = None  # side in pixels of the windows that are trained on; None = whole images
    decoder_noise: float = 0.1  # of a decoder-only run, in standard deviations of the latent
    # Optional terms; 0 leaves one out and costs nothing.
    fft: float = 0.0
    perceptual: float = 0.0  # features of a fixed random network
    lpips: float = 0.0  # the user's own lpips package, or a hook given to the stage
    adversarial: float = 0.0  # PatchGAN
    adversarial_start: float = 0.7  # share of the steps after which the PatchGAN is on: the last phase
    adversary_optimizer: OptimizerSettings = OptimizerSettings(2e-4, weight_decay=0.0)

    def __post_init__(self) -> None:
        for name in ("kl", "gradient", "pooled", "fft", "perceptual", "lpips", "adversarial"):
            if not 0.0 <= (weight := getattr(self, name)) < math.inf:
                raise SpecError(f"the loss weight {name} is {weight}; allowed: 0 or more")
        if not 0.0 <= self.adversarial_start <= 1.0:
            raise SpecError(f"adversarial_start is {self.adversarial_start}; allowed: 0 to 1")


def _check_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise SpecError(f"{name} is {value}; allowed: above 0")


@dataclass(frozen=True)
class FlowSettings:
    """Stage 2: rectified flow on cached latents.

    ``batch`` latents share one caption encoding with ``draws`` noise draws each, so that the text
    encoder runs once for ``draws`` samples.
    """

    optimizer: OptimizerSettings
    steps: int = 20_000
    batch: int = 64
    draws: int = 4
    scenes: int = 65_536
    captions_per_scene: int = 4
    text_dropout: float = 0.1
    self_condition: float = 0.9
    diversity: float = 1e-2
    time_shift: float = 1.0  # above 1: more of the drawn times near the noise, where a layout is decided

    def __post_init__(self) -> None:
        _check_positive("time_shift", self.time_shift)


@dataclass(frozen=True)
class KDSettings(FlowSettings):
    """Stage 4: the flow with a teacher beside it."""

    teacher_weight: float = 1.0  # lambda of ``lambda (1 - t) ||v_student - v_teacher||^2``

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.teacher_weight < math.inf:
            raise SpecError(f"teacher_weight is {self.teacher_weight}; allowed: above 0")


@dataclass(frozen=True)
class EditSettings(FlowSettings):
    """Stage 5: the flow with three tasks that have a source beside it (SPEC section 6).

    ``batch`` counts the examples of all tasks. Of those with a source, ``drop_text`` lose their words,
    ``drop_source`` their source and ``drop_both`` both: what three-way guidance contrasts with.

    ``triples`` examples with a source are made and encoded once, before the first step, and drawn from at every step;
    0 makes new ones at every step, which costs a step two images to encode for each.
    """

    generate: float = 0.40
    edit: float = 0.35
    inpaint: float = 0.15
    super_resolve: float = 0.10
    drop_text: float = 0.10
    drop_source: float = 0.05
    drop_both: float = 0.05
    triples: int = 0
    keep: bool = False  # rows that generate learn the velocity from before the run instead of the data's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.triples < 0:
            raise SpecError(f"triples is {self.triples}; allowed: 0 or more")
        for name, value in (*self.shares.items(), ("drop_text", self.drop_text),
                            ("drop_source", self.drop_source), ("drop_both", self.drop_both)):  # fmt: skip
            if not 0.0 <= value <= 1.0:
                raise SpecError(f"{name} is {value}; allowed: 0 to 1")
        if abs(sum(self.shares.values()) - 1.0) > 1e-6:
            raise SpecError(
                f"the shares of the tasks sum to {sum(self.shares.values()):g}; they must sum to 1"
            )
        if self.drop_text + self.drop_source + self.drop_both > 1.0:
            raise SpecError("drop_text, drop_source and drop_both sum to more than 1; lower one")

    @property
    def shares(self) -> Mapping[str, float]:
        """Task -> its share of a batch."""
        return {
            "generate": self.generate, "edit": self.edit, "inpaint": self.inpaint,
            "super-resolve": self.super_resolve,
        }  # fmt: skip


@dataclass(frozen=True)
class JudgedSettings(EditSettings):
    """The edit stage with the model's own judged drawings beside it: what reward and rewrite share (``judged``).

    ``judged`` drawings are made once, ``group`` of each caption. A step takes ``judged_per_example`` captions of
    them for each example of ``batch``.
    """

    judged: int = 24_576
    group: int = 8
    judged_per_example: int = 2
    judged_shift: float = 3.0  # time_shift of the judged drawings
    drawing_steps: int = 16  # of a drawer that is no few-step student

    @property
    def judged_captions(self) -> int:
        """Captions with judged drawings in a step."""
        return self.batch * self.judged_per_example

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("judged_per_example", "drawing_steps", "group"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.judged < self.group:
            raise SpecError(f"judged is {self.judged}; allowed: {self.group} (group) or more")
        _check_positive("judged_shift", self.judged_shift)


@dataclass(frozen=True)
class RewardSettings(JudgedSettings):
    """Stage 6: drawings that the oracle finds right, against those that it does not (``reward_stage``).

    A step takes ``draws`` drawings of each caption.
    """

    reward: float = 1.0  # weight beside the edit stage's own loss

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("reward", self.reward)
        if self.group < max(2, self.draws):
            raise SpecError(f"group is {self.group}; allowed: {max(2, self.draws)} (draws) or more")


@dataclass(frozen=True)
class RewriteSettings(JudgedSettings):
    """Stage 7: a vague prompt is read as a clear one (``rewrite_stage``).

    A step takes one right drawing of each caption, with ``draws`` draws of noise.
    """

    rewrite: float = 4.0  # weight beside the edit stage's own loss
    group: int = 1
    judged: int = 8_192

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("rewrite", self.rewrite)


#: Of any stage: VAESettings or FlowSettings, and so KDSettings, EditSettings, RewardSettings and RewriteSettings.
StageSettings = VAESettings | FlowSettings


@dataclass(frozen=True)
class LoopSettings:
    """How a run is watched and kept, whatever it trains."""

    log_every: int = 50
    save_every: int = 500
    sample_every: int = 2_000
    seed: int = 0
    device: str = "cpu"
    bfloat16: bool = False
    compile: bool = False  # torch.compile the denoiser: flow, kd and edit
    accumulate: int = 1  # micro-batches per process and step
    checkpoint_blocks: bool = False  # run blocks again in the backward pass instead of storing them
    tensorboard: bool = False
    workers: int = 0  # processes that make the built-in world's images ahead
    minutes: float | None = None  # the steps are those that fit; None = those of the stage

    @property
    def cuda(self) -> bool:
        """Whether the run is on a GPU of CUDA's, any of them."""
        return self.device.startswith("cuda")

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise SpecError(f"accumulate is {self.accumulate}; allowed: 1 or more")
        if self.workers < 0:
            raise SpecError(f"workers is {self.workers}; allowed: 0 or more")
        if self.minutes is not None and not 0.0 < self.minutes < math.inf:
            raise SpecError(f"minutes is {self.minutes}; allowed: above 0")


VAE_SETTINGS: Mapping[str, VAESettings] = types.MappingProxyType({
    "nano": VAESettings(OptimizerSettings(1e-3), steps=16_000),
    "tiny": VAESettings(OptimizerSettings(1e-3), steps=50_000),
    "small": VAESettings(OptimizerSettings(3e-4), steps=50_000),
    "base": VAESettings(OptimizerSettings(1e-4), steps=50_000),
})  # fmt: skip

FLOW_SETTINGS: Mapping[str, FlowSettings] = types.MappingProxyType({
    "nano": FlowSettings(OptimizerSettings(1.5e-3), steps=10_000, batch=48, scenes=49_152),
    "tiny": FlowSettings(OptimizerSettings(1e-3), steps=100_000, draws=2),
    "small": FlowSettings(OptimizerSettings(2e-4), steps=100_000),
    "base": FlowSettings(OptimizerSettings(1e-4), steps=100_000),
})  # fmt: skip

KD_SETTINGS: Mapping[str, KDSettings] = types.MappingProxyType({
    "nano": KDSettings(OptimizerSettings(5e-4), steps=5_000, batch=48, scenes=49_152),
    "tiny": KDSettings(OptimizerSettings(1e-4), steps=30_000),
    "small": KDSettings(OptimizerSettings(5e-5), steps=30_000),
    "base": KDSettings(OptimizerSettings(2e-5), steps=30_000),
})  # fmt: skip

EDIT_SETTINGS: Mapping[str, EditSettings] = types.MappingProxyType({
    "nano": EditSettings(OptimizerSettings(5e-4), steps=10_000, batch=48, scenes=49_152),
    "tiny": EditSettings(OptimizerSettings(2e-4), steps=20_000, draws=2),
    "small": EditSettings(OptimizerSettings(5e-5), steps=20_000),
    "base": EditSettings(OptimizerSettings(1e-5), steps=20_000),
})  # fmt: skip


#: Of a short continuation of finished weights. Measured for tiny alone; larger models learn slower.
_SHORT = OptimizerSettings(2e-4, "muon", warmup_steps=5, decay_fraction=0.9, ema=0.98)
_REWARD = RewardSettings(
    _SHORT, steps=300, batch=16, scenes=24_576, captions_per_scene=6, time_shift=2.0,
    generate=0.875, edit=0.0, inpaint=0.125, super_resolve=0.0,
)  # fmt: skip
REWARD_SETTINGS: Mapping[str, RewardSettings] = types.MappingProxyType({
    "nano": _REWARD,
    "tiny": _REWARD,
    "small": replace(_REWARD, optimizer=replace(_SHORT, learning_rate=5e-5)),
    "base": replace(_REWARD, optimizer=replace(_SHORT, learning_rate=2e-5)),
})  # fmt: skip

_REWRITE = RewriteSettings(
    _SHORT, steps=600, batch=8, draws=2, judged_per_example=8, scenes=24_576, captions_per_scene=6, time_shift=2.0,
    generate=0.75, edit=0.0, inpaint=0.25, super_resolve=0.0,
)  # fmt: skip
REWRITE_SETTINGS: Mapping[str, RewriteSettings] = types.MappingProxyType({
    "nano": _REWRITE,
    "tiny": _REWRITE,
    "small": replace(_REWRITE, optimizer=replace(_SHORT, learning_rate=5e-5)),
    "base": replace(_REWRITE, optimizer=replace(_SHORT, learning_rate=2e-5)),
})  # fmt: skip


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps``: linear warm-up, constant, then 1 - sqrt down to zero."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    decay_start = steps * (1.0 - settings.decay_fraction)
    progress: float = max(0.0, (step - decay_start) / max(steps - decay_start, 1.0))
    return settings.learning_rate * warm * (1.0 - math.sqrt(min(progress, 1.0)))


def check_steps(steps: int) -> int:
    """``steps`` when it is at least 1; SpecError otherwise."""
    if steps < 1:
        raise SpecError(f"steps is {steps}; allowed: 1 or more")
    return steps
