"""How MicroForge's own networks are driven, in the manifest's terms: shared by its provider and the translation of
version-1 manifests. Nothing else knows these names.

The model is a rectified flow: with velocity v at time t, an Euler step is u + (t' - t) v, the clean latent u - t v,
and the noise level at t is (1 - t, t).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from microforge.bundle.entry import FileEntry
from microforge.bundle.inputs import (
    Encoded,
    EncoderEntry,
    Expression,
    Image,
    Latent,
    Time,
    Tokenizer,
    TokenMask,
    Tokens,
    Zeros,
)
from microforge.bundle.layout import Driving
from microforge.bundle.sampling import (
    BranchEntry,
    DecoderEntry,
    Enlargement,
    LatentSpace,
    Preview,
    SamplerRow,
    SamplerTable,
    Scale,
    SourceEntry,
    Start,
    State,
    Task,
    Weight,
)

TEXT_ENCODER, IMAGE_ENCODER, DECODER = "text_encoder", "vae_encoder", "vae_decoder"
DENOISER, EDIT_DENOISER = "denoiser", "denoiser_edit"
#: Starts from an image on the network of ``generate``; no training of its own.
VARY = "vary"
#: Tasks on the network without a source input.
_WITHOUT_SOURCE = ("generate", VARY)
_GREY = 0.5
_DESCRIPTIONS = {
    "generate": "Make an image from a prompt.",
    "edit": "Change an image as an instruction says.",
    "inpaint": "Fill the masked part of an image.",
    "super-resolve": "Enlarge an image.",
    VARY: "Make an image that is similar to a given one.",
}


@dataclass(frozen=True)
class Facts:
    """What differs between MicroForge models. ``guidance``: (text, image) scales, None when guidance-distilled.

    ``inputs``: names of all inputs of the denoisers; some models have no plan, mask or pooled text. ``prefixes``: task ->
    id of its prefix token.
    """

    tokenizer: FileEntry
    length: int
    pad: int
    bos: int
    eos: int
    prefixes: Mapping[str, int]
    timesteps: tuple[float, ...]
    guidance: tuple[float, float] | None
    preserve_distances: tuple[float, float] | None
    latent: LatentSpace
    tasks: tuple[str, ...]
    inputs: frozenset[str]
    has_image_encoder: bool = True


def driving(facts: Facts, preview: Preview | None = None) -> Driving:
    """Tokenizer, encoders, branches, state and sampler tables of a MicroForge model."""
    steps = len(facts.timesteps) - 1
    prefix: dict[str, tuple[int, ...]] = {
        task: (facts.bos, facts.prefixes["generate" if task == VARY else task]) for task in facts.tasks
    }
    return Driving(
        latent=facts.latent,
        tokenizers={
            "prompt": Tokenizer(
                file=facts.tokenizer, length=facts.length, prefix=prefix, suffix=(facts.eos,), pad=facts.pad
            )
        },
        encoders={
            "prompt": _PROMPT_ENCODER,
            **({"image": _IMAGE_ENCODER} if facts.has_image_encoder else {}),
        },
        conditions={name: value for name, value in _CONDITIONS.items() if name in facts.inputs},
        state=(State(output="next_plan", input="plan", flag="has_plan"),) if "plan" in facts.inputs else (),
        guidance=_scales(facts),
        samplers=tuple(table(facts.timesteps[:: steps // count]) for count in _step_counts(facts)),
        tasks=task_entries(facts.tasks, facts.guidance is not None, facts.preserve_distances),
        decode=DecoderEntry(role=DECODER),
        preview=preview,
    )


_PROMPT_ENCODER = EncoderEntry(
    role=TEXT_ENCODER,
    inputs={
        "ids": Tokens(kind="tokens", tokenizer="prompt"),
        "mask": TokenMask(kind="token_mask", tokenizer="prompt"),
    },
)
_IMAGE_ENCODER = EncoderEntry(role=IMAGE_ENCODER, inputs={"image": Image(kind="image")}, latent="latent")
_CONDITIONS: Mapping[str, Expression] = {
    "z": Latent(kind="latent"),
    "t": Time(kind="time"),
    "text": Encoded(kind="encoded", encoder="prompt", output="text"),
    "mask": TokenMask(kind="token_mask", tokenizer="prompt"),
    "pooled": Encoded(kind="encoded", encoder="prompt", output="pooled"),
    "source": Encoded(kind="encoded", encoder="image", output="latent"),
}


def table(times: tuple[float, ...]) -> SamplerTable:
    """Euler steps along ``times``, which fall from 1.0 to 0.0."""
    pairs = tuple(itertools.pairwise(times))
    return SamplerTable(
        steps=len(pairs),
        times=times[:-1],
        first=1.0,
        rows=tuple(
            SamplerRow(u=(1.0,), m=(after - t,), level=(1.0 - t, t), clean=(1.0, -t)) for t, after in pairs
        ),
    )


def _step_counts(facts: Facts) -> tuple[int, ...]:
    """The model's own count and, unless its grid was distilled, its divisors."""
    steps = len(facts.timesteps) - 1
    return tuple(
        n for n in range(steps, 0, -1) if n == steps or (facts.guidance is not None and steps % n == 0)
    )


def _scales(facts: Facts) -> dict[str, Scale]:
    if facts.guidance is None:
        return {}
    text, image = facts.guidance
    scales = {"text": _scale("How closely the image follows the prompt.", text)}
    if set(facts.tasks) - set(_WITHOUT_SOURCE):
        scales["image"] = _scale("How closely the image follows the source image.", image)
    return scales


def _scale(description: str, default: float) -> Scale:
    return Scale(description=description, default=default, low=min(0.0, default), high=max(30.0, default))


def task_entries(
    names: Sequence[str], has_guidance: bool, preserve_distances: tuple[float, float] | None
) -> dict[str, Task]:
    """The tasks called ``names``, with classifier-free guidance or without."""
    return {
        name: Task(
            description=_DESCRIPTIONS[name],
            network=DENOISER if name in _WITHOUT_SOURCE else EDIT_DENOISER,
            output="velocity",
            prompt="required" if name in ("generate", "edit") else "optional",
            branches=_branches(has_guidance, name in _WITHOUT_SOURCE),
            source=_source(name, preserve_distances),
        )
        for name in names
    }


def _branches(has_guidance: bool, plain: bool) -> tuple[BranchEntry, ...]:
    """Classifier-free guidance; with a source image dual guidance (InstructPix2Pix, arXiv 2211.09800)."""
    if not has_guidance:
        return (BranchEntry(prompt="user", weight=Weight(constant=1.0)),)
    user = BranchEntry(prompt="user", weight=Weight(constant=0.0, scales={"text": 1.0}))
    if plain:
        return user, BranchEntry(prompt="negative", weight=Weight(constant=1.0, scales={"text": -1.0}))
    return (
        user,
        BranchEntry(prompt="empty", weight=Weight(constant=0.0, scales={"image": 1.0, "text": -1.0})),
        BranchEntry(
            prompt="empty",
            weight=Weight(constant=1.0, scales={"image": -1.0}),
            conditions={"source": Zeros(kind="zeros")},
        ),
    )


def _source(name: str, preserve_distances: tuple[float, float] | None) -> SourceEntry | None:
    if name == "edit":
        return SourceEntry(encoder="image", mask="optional", preserve_distances=preserve_distances)
    if name == "inpaint":
        return SourceEntry(encoder="image", mask="required", masked_value=_GREY)
    if name == "super-resolve":
        return SourceEntry(encoder="image", enlarge=Enlargement(factors=(2, 4), oversampling=2))
    if name == VARY:
        return SourceEntry(encoder="image", mask="optional", start=Start(strength=0.5))
    return None
