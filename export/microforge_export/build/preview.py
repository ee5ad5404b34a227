"""The matrix that turns a predicted clean latent into a small picture, fitted to samples of the model itself.

Every latent cell becomes a patch of RGB pixels by one affine map (least squares over all cells), as latent previews of
other tools do with one pixel per cell. Its fit is measured on samples that the map has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.manifest import Size
from microforge.bundle.sampling import Preview
from microforge.streams import FixedSeed
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.calibration import of_size, record_sample, sample_requests, torch_runner
from microforge_runtimes.sampler import from_pixels, preview_pixels

Floats = NDArray[np.float32]
#: Share of the samples that the map is measured on; it is fitted to the others.
_MEASURED_SHARE = 4
#: Pixels of a patch, at most; larger ones fit no better (docs/log.md) and have more numbers.
_PATCH = 2
_DIGITS = 5


def fit_preview(
    model: SourceModel, components: Sequence[SourceComponent], size: Size, report: Callable[[str], None]
) -> Preview:
    """The preview of a model, from samples of its default task at ``size``."""
    chosen = of_size(components, size)
    run, downsample = torch_runner(chosen), model.provider.driving(model.tasks).latent.downsample
    latents, images = [], []
    requests = sample_requests(model, model.preview_samples, FixedSeed.PREVIEW)
    for index, request in enumerate(requests):
        report(f"sample {index + 1}/{len(requests)}")
        sample = record_sample(model, chosen, run, request, keep_cases=False)
        latents.append(sample.latent.astype(np.float32))
        images.append(sample.image.astype(np.float32))
    patch = next(side for side in range(min(_PATCH, downsample), 0, -1) if downsample % side == 0)
    small = [shrunk(image, downsample // patch) for image in images]
    count = len(latents) - len(latents) // _MEASURED_SHARE
    preview = fitted(latents[:count], small[:count], patch)
    errors = [
        float(np.mean(np.square(from_pixels(preview_pixels(preview, latent)) - image)))
        for latent, image in zip(latents[count:], small[count:], strict=True)
    ]
    psnr = round(10.0 * float(np.log10(1.0 / max(float(np.mean(errors)), 1e-12))), 2)
    return preview.model_copy(update={"psnr_db": psnr})


def fitted(latents: Sequence[Floats], images: Sequence[Floats], patch: int) -> Preview:
    """The affine map of least squares from cells of latents (1, C, h, w) to patches of images (1, 3, h * patch, w * patch)."""
    cells = np.concatenate([latent[0].reshape(latent.shape[1], -1).T for latent in latents]).astype(
        np.float64
    )
    patches = np.concatenate([_patches(image, patch) for image in images])
    inputs = np.concatenate([cells, np.ones((len(cells), 1))], 1)
    solution = np.linalg.lstsq(inputs, patches, rcond=None)[0]  # (C + 1, 3 * patch * patch)
    rounded = np.asarray(np.round(solution, _DIGITS), np.float64) + 0.0  # no negative zeros
    return Preview(
        patch=patch,
        matrix=tuple(tuple(map(float, row)) for row in rounded[:-1].T),
        bias=tuple(map(float, rounded[-1])),
        psnr_db=0.0,
    )


def _patches(image: Floats, patch: int) -> NDArray[np.float64]:
    """(cells, 3 * patch * patch) of an image, values in the order colour, row, column."""
    _, _, height, width = image.shape
    grid = image[0].reshape(3, height // patch, patch, width // patch, patch).transpose(1, 3, 0, 2, 4)
    patches: NDArray[np.float64] = grid.reshape(-1, 3 * patch * patch).astype(np.float64)
    return patches


def shrunk(image: Floats, factor: int) -> Floats:
    """``image`` (1, 3, H, W) ``factor`` times smaller, by the mean of each square."""
    _, _, height, width = image.shape
    squares = image.reshape(1, 3, height // factor, factor, width // factor, factor)
    means: Floats = squares.mean(axis=(3, 5), dtype=np.float64).astype(np.float32)
    return means
