"""How samples are advanced: guidance branches, carried state, sampler tables and tasks, as numbers.

Schema version 2 of the bundle format (docs/bundle.md). Every sampler without clipping is a table over the network's
own inputs, so a runtime needs one loop and no formula of a particular solver. No torch, no file access.

Letters: C h w latent channels, height and width; u the input of an evaluation, m what the branches' outputs add
up to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from microforge.bundle.entry import Coefficient, Entry, Line, Name, Side, Size, TensorName
from microforge.bundle.inputs import Bindings

#: Inputs and outputs of earlier evaluations that a row may use, its own included.
MAX_HISTORY = 4
MAX_STEPS = 1000
MAX_BRANCHES = 4
History = Annotated[tuple[Coefficient, ...], Field(max_length=MAX_HISTORY)]
Level = tuple[Coefficient, Coefficient]


class Scale(Entry):
    """A guidance scale that the user may change."""

    description: Line = ""
    default: Coefficient
    low: Coefficient
    high: Coefficient


class Weight(Entry):
    """``constant + sum(factor * scale)`` over the named guidance scales."""

    constant: Coefficient
    scales: dict[Name, Coefficient] = Field(default={}, max_length=8)

    def value(self, scales: Mapping[str, float]) -> float:
        """The weight under these guidance scales."""
        return self.constant + sum(factor * scales[name] for name, factor in self.scales.items())


class BranchEntry(Entry):
    """One evaluation of the network per step; m is the weighted sum of all branches' outputs.

    ``conditions`` stand in place of the shared ones. ``prompt`` says whose encodings the branch sees: the user's
    prompt, the user's negative prompt, or the empty one. ``unprompted`` stands in place of further conditions
    where the user gives no negative prompt, which is else the empty one.
    """

    prompt: Literal["user", "negative", "empty"]
    weight: Weight
    conditions: Bindings = Field(default={})
    unprompted: Bindings = Field(default={})


class State(Entry):
    """An output that is the same network's input of the next evaluation; zeros before the first one.

    ``flag`` names an input that is 0 in the first evaluation and 1 later.
    """

    output: TensorName
    input: TensorName
    flag: TensorName | None = None


class SamplerRow(Entry):
    """From u_k to u_k+1: ``sum u_j u_k-j + sum m_j m_k-j + noise * fresh noise``, j from 0.

    ``level`` is (a, s) with u_k = a * clean latent + s * noise, for samples that start from or blend with an image;
    ``clean`` is (a, b) with a * u_k + b * m_k the predicted clean latent, for previews.
    """

    u: History
    m: History
    noise: Coefficient = 0.0
    level: Level | None = None
    clean: Level | None = None


class SamplerTable(Entry):
    """One way to sample: ``steps`` is the user's count, the rows are the network's evaluations.

    ``size`` and ``strength`` restrict a table to one image size, or to starting from an image at one strength. u_0 is
    ``first`` times the initial noise. The last row gives the latent that the decoder's normalization expects.
    """

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    size: Size | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    times: Annotated[tuple[Coefficient, ...], Field(min_length=1, max_length=MAX_STEPS)]
    first: Coefficient
    rows: Annotated[tuple[SamplerRow, ...], Field(min_length=1, max_length=MAX_STEPS)]

    @model_validator(mode="after")
    def _rows_fit(self) -> SamplerTable:
        if len(self.rows) != len(self.times):
            raise ValueError(f"{len(self.rows)} rows for {len(self.times)} times")
        for index, row in enumerate(self.rows):
            if max(len(row.u), len(row.m)) > index + 1:
                raise ValueError(f"row {index} uses evaluations before the first one")
        return self

    def starts(self) -> tuple[int, ...]:
        """Rows that sampling may start at from an image: they have a level, and nothing later reaches back past them."""
        allowed, least = [], len(self.rows)
        for index in reversed(range(len(self.rows))):
            row = self.rows[index]
            least = min(least, index + 1 - max(len(row.u), len(row.m), 1))
            if least >= index and row.level is not None:
                allowed.append(index)
        return tuple(reversed(allowed))


class Enlargement(Entry):
    """The image is smaller than the sample and enlarged first (bicubic, docs/bundle.md).

    ``factors``: of the whole image, which a program makes ``oversampling`` times larger still, in tiles, and
    shrinks: blur of the decoder is then narrower by as much.
    """

    factors: Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=8)]
    oversampling: Annotated[int, Field(ge=1, le=4)]


class Start(Entry):
    """Sampling starts from the encoded image at a noise level; ``strength`` is the default share of the steps."""

    strength: Annotated[float, Field(gt=0, le=1)]


class SourceEntry(Entry):
    """What a task does with the user's image.

    ``encoder`` makes its latent. ``masked_value`` stands in masked pixels of the image that the networks are shown;
    null shows all of it. With a mask, latents outside it are kept at the current noise level after every step, and
    pixels outside it are the image's own in the end. ``preserve_distances`` are two distances below and above which
    the final latent is the image's own, or as sampled.
    """

    encoder: Name
    mask: Literal["none", "optional", "required"] = "none"
    masked_value: Annotated[float, Field(ge=0, le=1)] | None = None
    enlarge: Enlargement | None = None
    start: Start | None = None
    preserve_distances: tuple[Coefficient, Coefficient] | None = None

    @model_validator(mode="after")
    def _distances_rise(self) -> SourceEntry:
        pair = self.preserve_distances
        if pair is not None and not 0.0 <= pair[0] < pair[1]:
            raise ValueError("preserve_distances must be two rising distances from 0")
        return self


class Task(Entry):
    """One thing that the bundle can do. ``network`` is the role of the component that is evaluated at every step.

    The first branch carries the user's prompt; what a trajectory records of the state is this branch's.
    """

    description: Line = ""
    network: Name
    output: TensorName
    prompt: Literal["required", "optional", "none"]
    branches: Annotated[tuple[BranchEntry, ...], Field(min_length=1, max_length=MAX_BRANCHES)]
    source: SourceEntry | None = None


class DecoderEntry(Entry):
    """How the final latent becomes an image (1, 3, H, W) in [0, 1].

    The latent is ``z * std + mean`` per channel first. Without a ``role`` it is the image itself.
    """

    role: Name | None
    input: TensorName = "latent"
    output: TensorName = "image"


class Preview(Entry):
    """A picture of a predicted clean latent: every cell becomes ``patch`` x ``patch`` RGB pixels.

    ``matrix`` has a row of C numbers for every value of the patch, in the order (colour, row, column), and
    ``bias`` a number each: value = bias + matrix . cell, clipped to [0, 1]. ``psnr_db`` is its fit to decoded
    images that were shrunk to the same size.
    """

    patch: Annotated[int, Field(ge=1, le=16)]
    matrix: Annotated[
        tuple[Annotated[tuple[Coefficient, ...], Field(min_length=1, max_length=64)], ...],
        Field(min_length=3, max_length=768),
    ]
    bias: Annotated[tuple[Coefficient, ...], Field(min_length=3, max_length=768)]
    psnr_db: Coefficient

    @model_validator(mode="after")
    def _rows_fit_the_patch(self) -> Preview:
        count = 3 * self.patch * self.patch
        widths = {len(row) for row in self.matrix}
        if len(self.matrix) != count or len(self.bias) != count or len(widths) != 1:
            raise ValueError(
                f"a patch of {self.patch} pixels needs {count} rows of equal length, and as many biases"
            )
        return self


class LatentSpace(Entry):
    """The networks' latent is ``(decoder's latent - mean) / std`` per channel; see each size for its shape."""

    channels: Annotated[int, Field(ge=1, le=512)]
    downsample: Annotated[int, Field(ge=1, le=256)]
    mean: Annotated[tuple[Coefficient, ...], Field(max_length=512)]
    std: Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(max_length=512)]

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> LatentSpace:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} numbers for {self.channels} channels"
            )
        return self

    def shape(self, size: Size) -> tuple[Side, Side, Side]:
        """(C, h, w) of an image size."""
        return self.channels, size.height // self.downsample, size.width // self.downsample
