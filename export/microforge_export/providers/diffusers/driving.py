"""How the networks of a Stable Diffusion pipeline are run, in the manifest's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from microforge.bundle.inputs import (
    Concat,
    Encoded,
    EncoderEntry,
    Expression,
    Image,
    Latent,
    Sized,
    Time,
    Tokenizer,
    Tokens,
    Zeros,
)
from microforge.bundle.manifest import Driving
from microforge.bundle.sampling import (
    BranchEntry,
    DecoderEntry,
    LatentSpace,
    SamplerTable,
    Scale,
    SourceEntry,
    Start,
    Task,
    Weight,
)

UNET, DECODER, ENCODER = "unet", "vae_decoder", "vae_encoder"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
GENERATE, VARY, INPAINT = "generate", "vary", "inpaint"
_TEXT, _POOLED = "encoder_hidden_states", "text_embeds"
_DESCRIPTIONS = {
    GENERATE: "Make an image from a prompt.",
    VARY: "Make an image that is similar to a given one.",
    INPAINT: "Fill the masked part of an image.",
}
#: Share of the steps that a variation runs by default.
STRENGTH = 0.6


@dataclass(frozen=True)
class SamplerFacts:
    """What was measured of a pipeline's loop: tables by step count, and the weights of its guidance branches.

    ``weights`` are in the order of the pipeline's batch, the user's prompt last; ``guidance`` is the scale that they
    were measured at.
    """

    tables: tuple[SamplerTable, ...]
    weights: tuple[float, ...]
    guidance: float
    zeros_without_negative: bool


def available_tasks(tables: Sequence[SamplerTable]) -> tuple[str, ...]:
    """Tasks that these tables allow: images as a start need noise levels, and rows that need no earlier ones."""
    levelled = all(row.level is not None for table in tables for row in table.rows)
    startable = levelled and all(2 * len(table.starts()) >= len(table.rows) for table in tables)
    return (GENERATE, *((VARY,) if startable else ()), *((INPAINT,) if levelled else ()))


def stable_diffusion_driving(
    facts: SamplerFacts, latent: LatentSpace, tokenizers: Mapping[str, Tokenizer], widths: Sequence[int],
    tasks: Sequence[str],
) -> Driving:  # fmt: skip
    """The manifest's account of a model with one or two text encoders.

    Args:
        facts: of its sampler.
        latent: of its autoencoder.
        tokenizers: by the role of the encoder that reads them.
        widths: of the text features of each encoder, joined in this order.
        tasks: of the bundle.
    """
    roles = TEXT_ENCODERS[: len(widths)]
    conditions: dict[str, Expression] = {
        "sample": Latent(kind="latent"),
        "timestep": Time(kind="time"),
        _TEXT: _text(roles, widths),
    }
    if len(roles) == 2:
        conditions[_POOLED] = Encoded(kind="encoded", encoder=roles[1], output="pooled")
    encoders = {
        role: EncoderEntry(role=role, inputs={"ids": Tokens(kind="tokens", tokenizer=role)}) for role in roles
    }
    if set(tasks) - {GENERATE}:
        encoders["image"] = EncoderEntry(role=ENCODER, inputs={"image": Image(kind="image")}, latent="latent")
    return Driving(
        latent=latent,
        tokenizers=dict(tokenizers),
        encoders=encoders,
        conditions=conditions,
        guidance=_guidance(facts),
        samplers=facts.tables,
        tasks={name: _task(name, facts, len(roles)) for name in tasks},
        decode=DecoderEntry(role=DECODER),
    )


def _text(roles: Sequence[str], widths: Sequence[int]) -> Expression:
    parts = [Encoded(kind="encoded", encoder=role, output="text") for role in roles]
    if len(parts) == 1:
        return parts[0]
    sized = tuple(Sized(length=width, part=part) for width, part in zip(widths, parts, strict=True))
    return Concat(kind="concat", axis=2, parts=sized)


def _guidance(facts: SamplerFacts) -> dict[str, Scale]:
    if not _is_adjustable(facts):
        return {}
    text = "How closely the image follows the prompt; 1 is no guidance."
    return {"text": Scale(description=text, default=facts.guidance, low=1.0, high=max(30.0, facts.guidance))}


def _is_adjustable(facts: SamplerFacts) -> bool:
    return facts.weights == (1.0 - facts.guidance, facts.guidance)


def _task(name: str, facts: SamplerFacts, encoders: int) -> Task:
    source = {
        GENERATE: None,
        VARY: SourceEntry(encoder="image", start=Start(strength=STRENGTH)),
        INPAINT: SourceEntry(encoder="image", mask="required"),
    }[name]
    return Task(
        description=_DESCRIPTIONS[name],
        network=UNET,
        output="out",
        prompt="required" if name == GENERATE else "optional",
        branches=_branches(facts, encoders),
        source=source,
    )


def _branches(facts: SamplerFacts, encoders: int) -> tuple[BranchEntry, ...]:
    if len(facts.weights) == 1:
        return (BranchEntry(prompt="user", weight=Weight(constant=1.0)),)
    user, negative = Weight(constant=facts.weights[1]), Weight(constant=facts.weights[0])
    if _is_adjustable(facts):
        user, negative = (
            Weight(constant=0.0, scales={"text": 1.0}),
            Weight(constant=1.0, scales={"text": -1.0}),
        )
    names = (_TEXT, _POOLED)[:encoders]
    unprompted: dict[str, Expression] = {name: Zeros(kind="zeros") for name in names}
    return (
        BranchEntry(prompt="user", weight=user),
        BranchEntry(
            prompt="negative", weight=negative, unprompted=unprompted if facts.zeros_without_negative else {}
        ),
    )
