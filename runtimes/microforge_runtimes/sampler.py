"""Sampling as pure functions of numpy arrays: one table-driven loop for every solver; the same in every language.

A bundle's sampler table says how each network input follows from the earlier ones (docs/bundle.md). Sums are taken in
float64 in the table's order and rounded once to float32, so every language gets the same bits.

Letters: C h w latent channels, height and width, H W image height and width; u the input of an evaluation, m the
weighted sum of the branches' outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.sampling import MAX_HISTORY, LatentSpace, Level, Preview, SamplerRow, SamplerTable
from microforge.errors import BundleError, GenerationError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Step:
    """What one sampling step did.

    ``input`` u and ``latent`` (1, C, h, w) are the latent before and after the step, ``output`` m is what the
    network's branches add up to, ``states`` what the first branch carries on, by input name.
    """

    index: int  # 1 for the first step
    steps: int
    time: float
    input: Floats
    output: Floats
    latent: Floats
    states: Mapping[str, Floats] = field(default_factory=dict)
    clean_weights: Level | None = None
    preview_matrix: Preview | None = None

    def clean(self) -> Floats:
        """The clean latent (1, C, h, w) that this step predicts, else the latent after it."""
        if self.clean_weights is None:
            return self.latent
        return weighted_sum(zip(self.clean_weights, (self.input, self.output), strict=True))

    def preview(self) -> Pixels | None:
        """A small picture (h * patch, w * patch, 3) of the predicted clean latent; None where the bundle has no preview."""
        return None if self.preview_matrix is None else preview_pixels(self.preview_matrix, self.clean())


StepCallback = Callable[[Step], None]
#: (u, time) -> m, and the states that the first branch carries on.
Evaluate = Callable[[Floats, float], tuple[Floats, Mapping[str, Floats]]]
#: (latent after a step, its noise level where the table has it) -> the latent to go on with.
AfterStep = Callable[[Floats, Level | None], Floats]
#: k -> the image's k-th noise (1, C, h, w); 0 is the initial one.
Noise = Callable[[int], Floats]
CLEAN: Level = (1.0, 0.0)


def weighted_sum(terms: Iterable[tuple[float, Floats]]) -> Floats:
    """The sum of weight times array, in float64 in the order of ``terms``, rounded once to float32."""
    total: NDArray[np.float64] | float = 0.0
    for weight, values in terms:
        total = total + weight * values.astype(np.float64)
    return np.asarray(total).astype(np.float32)


def advance(
    row: SamplerRow, inputs: Sequence[Floats], outputs: Sequence[Floats], noise: Floats | None = None
) -> Floats:
    """The next network input u.

    Args:
        row: of the sampler table.
        inputs: u of this evaluation and the ones before, newest first; at least as many as the row uses.
        outputs: m in the same order.
        noise: fresh noise, needed where the row's coefficient of it is not 0.
    """
    terms = [*zip(row.u, inputs, strict=False), *zip(row.m, outputs, strict=False)]
    if row.noise != 0.0 and noise is not None:
        terms.append((row.noise, noise))
    return weighted_sum(terms)


def at_level(level: Level, clean: Floats, noise: Floats) -> Floats:
    """A clean latent at a noise level: both products and their sum are rounded to float32."""
    mixed: Floats = np.float32(level[0]) * clean + np.float32(level[1]) * noise
    return mixed


def sample(
    table: SamplerTable, evaluate: Evaluate, latent: Floats, noise: Noise, start: int = 0,
    after: AfterStep | None = None, callback: StepCallback | None = None, preview: Preview | None = None,
) -> Floats:  # fmt: skip
    """Follow ``table`` from ``latent``, the u of row ``start``, to the final latent (1, C, h, w).

    Args:
        after: may replace the latent after each step.
        callback: is called after every step; ``preview`` is what it can show it with.
    """
    inputs: deque[Floats] = deque(maxlen=MAX_HISTORY)
    outputs: deque[Floats] = deque(maxlen=MAX_HISTORY)
    for index in range(start, len(table.rows)):
        row, time = table.rows[index], table.times[index]
        output, states = evaluate(latent, time)
        inputs.appendleft(latent)
        outputs.appendleft(output)
        latent = advance(row, inputs, outputs, noise(index + 1) if row.noise != 0.0 else None)
        if after is not None:
            latent = after(latent, level_of(table, index + 1))
        if callback is not None:
            done, count = index + 1 - start, len(table.rows) - start
            callback(Step(done, count, time, inputs[0], output, latent, states, row.clean, preview))
    return latent


def level_of(table: SamplerTable, index: int) -> Level | None:
    """Noise level of the input of row ``index``, and of the final latent after the last row."""
    return table.rows[index].level if index < len(table.rows) else CLEAN


def choose_table(
    tables: Sequence[SamplerTable], steps: int | None = None, strength: float | None = None
) -> tuple[SamplerTable, int]:
    """The table for a sample, and the row that it starts at.

    Args:
        tables: of one image size, the default one first.
        strength: share of the steps that are run on an image, None without one.

    Raises:
        BundleError: for a step count that the bundle does not have; lists those that it has.
    """
    counts = tuple(dict.fromkeys(table.steps for table in tables))
    wanted = counts[0] if steps is None else steps
    if wanted not in counts:
        raise BundleError(f"steps is {steps}; this bundle allows: {', '.join(map(str, counts))}")
    matching = [table for table in tables if table.steps == wanted]
    if strength is None:
        return next(table for table in matching if table.strength is None), 0
    own = [table for table in matching if table.strength is not None]
    if own:
        return min(own, key=lambda table: abs((table.strength or 0.0) - strength)), 0
    table = matching[0]
    count = len(table.rows)
    row = count - min(max(int(strength * count + 0.5), 1), count)
    if not table.starts():
        raise BundleError(f"the sampler for {wanted} steps cannot start from an image")
    return table, min(table.starts(), key=lambda start: (abs(start - row), start))


def denormalize(latent: Floats, space: LatentSpace) -> Floats:
    """The decoder's latent, ``latent * std + mean`` per channel."""
    mean, std = _channels(space)
    return latent * std + mean


def normalize(latent: Floats, space: LatentSpace) -> Floats:
    """The networks' latent of an encoder's, ``(latent - mean) / std`` per channel."""
    mean, std = _channels(space)
    return (latent - mean) / std


def _channels(space: LatentSpace) -> tuple[Floats, Floats]:
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (space.mean, space.std))
    return mean, std


def preview_pixels(preview: Preview, clean: Floats) -> Pixels:
    """A picture (h * patch, w * patch, 3) of a clean latent (1, C, h, w)."""
    _, channels, height, width = clean.shape
    matrix, bias = np.asarray(preview.matrix, np.float32), np.asarray(preview.bias, np.float32)
    values = matrix @ clean.reshape(channels, height * width) + bias[:, None]
    patches = values.reshape(3, preview.patch, preview.patch, height, width).transpose(0, 3, 1, 4, 2)
    return to_pixels(patches.reshape(1, 3, height * preview.patch, width * preview.patch))


def split_alpha(image: Floats) -> tuple[Floats, Floats | None]:
    """The colours (1, 3, H, W) and alpha (1, 1, H, W) of a decoded image; None without a fourth channel."""
    return image[:, :3], image[:, 3:] if image.shape[1] == 4 else None


def check_finite(values: NDArray[Any], what: str = "the model gave") -> None:
    """Refuse ``values`` that hold NaN or infinity: clipped to pixels, they would be black without a word.

    Raises:
        GenerationError: with ``what`` gave them at its beginning.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise GenerationError(
            f"{what} {count} of {values.size} values that are not finite (NaN or infinity); no image is written: "
            "its weights are damaged or overflow, use another build or checkpoint"
        )


#: Rows of an image that are converted at once: few enough to stay in a cache, which takes a third of the time.
_ROWS = 64


def to_pixels(image: Floats) -> Pixels:
    """(1, C, H, W) in [0, 1] to (H, W, C) bytes, rounded to the nearest.

    Raises:
        GenerationError: when the image holds NaN or infinity.
    """
    check_finite(image)
    channels, height, width = image.shape[1:]
    pixels: Pixels = np.empty((channels, height, width), np.uint8)
    scratch = np.empty((_ROWS, width), np.float32)
    for channel in range(channels):
        for row in range(0, height, _ROWS):
            values = scratch[: min(_ROWS, height - row)]
            np.maximum(image[0, channel, row : row + _ROWS], np.float32(0.0), out=values)
            np.minimum(values, np.float32(1.0), out=values)
            values *= np.float32(255.0)
            np.rint(values, out=values)
            pixels[channel, row : row + _ROWS] = values
    return pixels.transpose(1, 2, 0)


def from_pixels(pixels: Pixels) -> Floats:
    """uint8 (H, W, 3) as float32 (1, 3, H, W) in [0, 1]."""
    image: Floats = pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255.0)
    return image
