"""Where every input of a network comes from: tokenizers, encoders and the expressions that bind inputs.

Schema version 2 of the bundle format (docs/bundle.md). A runtime knows these expressions and no tensor by its
name. No torch, no file access.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from microforge.bundle.entry import Entry, FileEntry, Line, Name, Side, TensorName, TokenId

DType = Literal["float32", "float16", "int64", "int32"]
Number = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
Ids = Annotated[tuple[TokenId, ...], Field(max_length=64)]
EdgeSide = Literal["left", "right"]


class Tokenizer(Entry):
    """A Hugging Face ``tokenizer.json`` and the frame of its token ids.

    An encoded prompt is ``prefix + ids + suffix``, cut to fit and then filled with ``pad`` up to ``length`` (L).
    The ids are those of the file without its own special tokens, padding and truncation. The mask that belongs
    to them is 1 on every id of the frame and 0 on padding.
    """

    file: FileEntry
    length: Annotated[int, Field(ge=1, le=1 << 14)]
    #: Task -> ids before the prompt's own.
    prefix: dict[Name, Ids] = Field(max_length=32)
    suffix: Ids
    pad: TokenId
    padding: EdgeSide = "right"
    #: The end of the prompt's own ids that is cut off when they are too many.
    truncation: EdgeSide = "right"
    #: Text that stands before the user's prompt, never before a negative or an empty one.
    before: Annotated[str, Field(max_length=4096)] = ""


class Latent(Entry):
    """The current input u of the sampler, (1, C, h, w)."""

    kind: Literal["latent"]


class Time(Entry):
    """The time of the current evaluation, in every element."""

    kind: Literal["time"]


class Tokens(Entry):
    """Token ids (1, L) of the branch's prompt."""

    kind: Literal["tokens"]
    tokenizer: Name


class TokenMask(Entry):
    """The mask (1, L) of the same ids: 1 on tokens, 0 on padding."""

    kind: Literal["token_mask"]
    tokenizer: Name


class Encoded(Entry):
    """An output of an encoder, which saw the branch's prompt or the user's image."""

    kind: Literal["encoded"]
    encoder: Name
    output: TensorName


class Image(Entry):
    """The user's image as the task shows it to the networks: (1, 3, H, W) in [0, 1]."""

    kind: Literal["image"]


class LatentMask(Entry):
    """(1, 1, h, w): 1 for every latent cell that contains a masked pixel; all ones without a mask."""

    kind: Literal["latent_mask"]


class Zeros(Entry):
    """Zeros of the input's shape."""

    kind: Literal["zeros"]


class Values(Entry):
    """Literal numbers in the order of the input's elements, or one number for all of them."""

    kind: Literal["values"]
    values: Annotated[tuple[Number, ...], Field(min_length=1, max_length=4096)]


class Parameter(Entry):
    """A number that the user chooses, in every element; ``parameters`` declares it."""

    kind: Literal["parameter"]
    parameter: Name


Part = Annotated[
    Latent | Time | Tokens | TokenMask | Encoded | Image | LatentMask | Zeros | Values | Parameter,
    Field(discriminator="kind"),
]


class Sized(Entry):
    """One part of a concatenation with its length along the axis."""

    length: Side
    part: Part


class Concat(Entry):
    """Parts one after another along ``axis``."""

    kind: Literal["concat"]
    axis: Annotated[int, Field(ge=0, le=7)]
    parts: Annotated[tuple[Sized, ...], Field(min_length=2, max_length=8)]


Expression = Annotated[
    Latent | Time | Tokens | TokenMask | Encoded | Image | LatentMask | Zeros | Values | Parameter | Concat,
    Field(discriminator="kind"),
]
#: Input name -> where it comes from.
Bindings = Annotated[dict[TensorName, Expression], Field(max_length=64)]


class EncoderEntry(Entry):
    """A component that runs before sampling: on every prompt that a branch needs, or on the user's image.

    ``latent`` names the output that is an image's latent as the decoder takes it; it is normalized,
    ``(latent - mean) / std`` per channel, before anything else sees it.
    """

    role: Name
    inputs: Bindings
    latent: TensorName | None = None


class UserParameter(Entry):
    """A number that the user may choose, such as a class label."""

    description: Line = ""
    default: Number
    low: Number
    high: Number
    integer: bool = False
