"""Settings of each training stage: frozen dataclasses that check their values.

The defaults of a stage and a model size are in ``presets``. The learning rate is constant after a warm-up and decays over
the last ``decay_fraction`` of the steps (warmup-stable-decay, arXiv 2405.18392), so a run can be resumed with more steps
than it started with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from microforge.errors import SpecError

OPTIMIZERS = ("adamw", "muon")
#: Stages that learn from samples of the model itself, judged by the oracle.
FEEDBACK_STAGES = ("reward", "rewrite")
#: Stages that continue from the weights of a flow.
CONTINUED_STAGES = ("edit", *FEEDBACK_STAGES)
#: Stages that can use a teacher checkpoint.
TEACHER_STAGES = ("kd", *CONTINUED_STAGES)
STAGES = ("vae", "flow", "kd", *CONTINUED_STAGES)
#: Stages that train the denoiser: only these have hidden matrices for Muon, and blocks worth compiling.
DENOISER_STAGES = STAGES[1:]


def check_positive(name: str, value: float) -> None:
    """Raise SpecError unless ``value`` is a finite number above 0."""
    if not 0.0 < value < math.inf:
        raise SpecError(f"{name} is {value}; allowed: above 0")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW with gradient clipping, and a slower group without weight decay for the SSM's decay, B and C.

    ``kind`` "muon" trains the hidden matrices with Muon and everything else with AdamW; see ``engine.optimizers``.
    """

    learning_rate: float  # peak learning rate
    kind: str = "adamw"  # adamw, or muon for the hidden matrices (all stages but vae)
    warmup_steps: int = 200  # steps of linear warm-up
    decay_fraction: float = 0.3  # fraction of the steps, the last ones, in which the rate decays
    weight_decay: float = 0.01  # of matrices
    beta2: float = 0.99  # of AdamW's second moment
    ssm_rate: float = 0.2  # learning rate of the SSM group, as a share of learning_rate
    clip: float = 2.0  # largest gradient norm
    ema: float = 0.999  # decay of the averaged weights

    def __post_init__(self) -> None:
        if self.kind not in OPTIMIZERS:
            raise SpecError(f"optimizer is {self.kind!r}; allowed: {', '.join(OPTIMIZERS)}")
        check_positive("learning_rate", self.learning_rate)
        if not 0.0 <= self.ema < 1.0:
            raise SpecError(f"ema is {self.ema}; allowed: 0 up to 1")


@dataclass(frozen=True)
class TrainingSettings:
    """What every run has: an optimizer, a number of optimizer steps, and a batch size."""

    optimizer: OptimizerSettings
    steps: int = 20_000  # optimizer steps
    batch: int = 64  # images or captions per step


@dataclass(frozen=True)
class VAESettings(TrainingSettings):
    """Stage 1, the autoencoder. The loss weights were measured (SPEC section 11); 0 disables a term."""

    batch: int = 16  # images per step
    kl: float = 1e-6  # weight of the KL divergence
    gradient: float = 2.0  # L1 of image gradients
    pooled: float = 0.5  # L1 of average-pooled images
    pool_sizes: tuple[int, ...] = (4, 16, 64)  # in pixels
    crop: int | None = None  # side of square image crops in pixels; None trains on whole images
    decoder_noise: float = 0.1  # noise on the latents of a decoder-only run, in their standard deviations
    alpha: bool = False  # a fourth decoder channel, the opacity of objects (scenes and stickers only)
    alpha_weight: float = 1.0  # L1 of that channel
    # optional loss terms
    fft: float = 0.0  # L1 of spectrum magnitudes
    perceptual: float = 0.0  # features of a fixed random network
    lpips: float = 0.0  # the lpips package, or a hook passed to the stage
    adversarial: float = 0.0  # PatchGAN
    adversarial_start: float = 0.7  # fraction of the steps after which the PatchGAN is active
    discriminator_optimizer: OptimizerSettings = OptimizerSettings(2e-4, weight_decay=0.0)

    def __post_init__(self) -> None:
        for name in ("kl", "gradient", "pooled", "fft", "perceptual", "lpips", "adversarial", "alpha_weight"):
            if not 0.0 <= (weight := getattr(self, name)) < math.inf:
                raise SpecError(f"the loss weight {name} is {weight}; allowed: 0 or more")
        if not 0.0 <= self.adversarial_start <= 1.0:
            raise SpecError(f"adversarial_start is {self.adversarial_start}; allowed: 0 to 1")


@dataclass(frozen=True)
class FlowSettings(TrainingSettings):
    """Stages 2 and 3, rectified flow on cached latents.

    A step takes ``batch`` captioned latents and noises each ``noise_samples`` times, so that the text encoder runs once
    for ``noise_samples`` training samples.
    """

    noise_samples: int = 4  # noise samples per caption
    scenes: int = 65_536  # images of the built-in world in the latent cache
    captions_per_scene: int = 4  # captions of each image in the latent cache
    text_dropout: float = 0.1  # fraction of captions replaced by the empty prompt
    self_condition: float = 0.9  # fraction of samples that get a previous plan
    diversity: float = 1e-2  # weight of the plan similarity
    time_shift: float = 1.0  # above 1 samples more times near the noise, where the layout is decided

    def __post_init__(self) -> None:
        check_positive("time_shift", self.time_shift)


@dataclass(frozen=True)
class KDSettings(FlowSettings):
    """Stage 4, knowledge distillation: the flow loss and the distance to a teacher's velocity."""

    teacher_weight: float = 1.0  # lambda of ``lambda (1 - t) ||v_student - v_teacher||^2``

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("teacher_weight", self.teacher_weight)


@dataclass(frozen=True)
class EditSettings(FlowSettings):
    """Stage 5, editing: the flow together with three tasks that have a source image (SPEC section 6).

    ``batch`` counts the examples of all tasks. Of those with a source, ``drop_text`` lose their prompt, ``drop_source``
    their source and ``drop_both`` both, which dual guidance needs.
    """

    generate: float = 0.40  # share of the batch; the four shares sum to 1
    edit: float = 0.35  # share of the batch
    inpaint: float = 0.15  # share of the batch
    super_resolve: float = 0.10  # share of the batch
    drop_text: float = 0.10  # fraction of examples with a source that lose their prompt
    drop_source: float = 0.05  # fraction that lose their source
    drop_both: float = 0.05  # fraction that lose both
    triples: int = 0  # examples with a source encoded once; 0 makes new ones every step
    preserve_generation: bool = False  # rows that generate learn the reference velocity instead of the data's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.triples < 0:
            raise SpecError(f"triples is {self.triples}; allowed: 0 or more")
        drops = {name: getattr(self, name) for name in ("drop_text", "drop_source", "drop_both")}
        for name, value in {**self.shares, **drops}.items():
            if not 0.0 <= value <= 1.0:
                raise SpecError(f"{name} is {value}; allowed: 0 to 1")
        if abs(sum(self.shares.values()) - 1.0) > 1e-6:
            raise SpecError(
                f"the shares of the tasks sum to {sum(self.shares.values()):g}; they must sum to 1"
            )
        if sum(drops.values()) > 1.0:
            raise SpecError("drop_text, drop_source and drop_both sum to more than 1; lower one")

    @property
    def shares(self) -> Mapping[str, float]:
        """Task -> its share of a batch."""
        return {
            "generate": self.generate,
            "edit": self.edit,
            "inpaint": self.inpaint,
            "super-resolve": self.super_resolve,
        }


@dataclass(frozen=True)
class FeedbackSettings(EditSettings):
    """What the stages reward and rewrite share: the edit stage and samples of the model that the oracle has judged.

    ``judged_samples`` are generated once, ``samples_per_prompt`` of each prompt. A step takes ``judged_per_example``
    prompts of them for each example of ``batch``.
    """

    judged_samples: int = 24_576  # samples that are generated and judged
    samples_per_prompt: int = 8  # samples of each prompt
    judged_per_example: int = 2  # prompts with judged samples in a step, per example of the batch
    judged_time_shift: float = 3.0  # time_shift of the judged samples
    sampling_steps: int = 16  # of a checkpoint that is not a few-step student

    @property
    def judged_captions(self) -> int:
        """Prompts with judged samples in a step."""
        return self.batch * self.judged_per_example

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("judged_per_example", "sampling_steps", "samples_per_prompt"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.judged_samples < self.samples_per_prompt:
            raise SpecError(
                f"judged_samples is {self.judged_samples}; allowed: {self.samples_per_prompt} "
                "(samples_per_prompt) or more"
            )
        check_positive("judged_time_shift", self.judged_time_shift)


@dataclass(frozen=True)
class RewardSettings(FeedbackSettings):
    """Stage reward: the oracle's verdicts on the model's samples; a step takes ``noise_samples`` samples per prompt."""

    reward: float = 1.0  # weight beside the edit stage's loss

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("reward", self.reward)
        least = max(2, self.noise_samples)
        if self.samples_per_prompt < least:
            raise SpecError(
                f"samples_per_prompt is {self.samples_per_prompt}; allowed: {least} (noise_samples) or more"
            )


@dataclass(frozen=True)
class RewriteSettings(FeedbackSettings):
    """Stage rewrite: ambiguous prompts learn the velocity of their rewritten form.

    A step takes one correct sample of each prompt and noises it ``noise_samples`` times.
    """

    rewrite: float = 4.0  # weight beside the edit stage's loss
    samples_per_prompt: int = 1  # samples of each prompt
    judged_samples: int = 8_192  # samples that are generated and judged

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("rewrite", self.rewrite)


#: Settings of any stage; the other classes derive from FlowSettings.
StageSettings = VAESettings | FlowSettings


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """Learning rate at ``step`` of ``steps``: linear warm-up, constant, then ``1 - sqrt`` decay to zero."""
    warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
    decay_start = steps * (1.0 - settings.decay_fraction)
    progress: float = max(0.0, (step - decay_start) / max(steps - decay_start, 1.0))
    return settings.learning_rate * warm * (1.0 - math.sqrt(min(progress, 1.0)))


def check_steps(steps: int) -> int:
    """Return ``steps`` when it is at least 1; raise SpecError otherwise."""
    if steps < 1:
        raise SpecError(f"steps is {steps}; allowed: 1 or more")
    return steps
