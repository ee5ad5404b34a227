"""The map from latent cells to pixels: exact where the decoder is affine, and measured where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microforge.bundle.files import load_bundle
from microforge_export.build.preview import fitted, shrunk
from microforge_runtimes import Generator
from microforge_runtimes.sampler import Step, from_pixels, preview_pixels

RNG = np.random.default_rng(0)


def test_the_fit_finds_an_affine_decoder() -> None:
    matrix, bias = RNG.uniform(-0.1, 0.1, (12, 3)), RNG.uniform(0.4, 0.6, 12)
    latents = [RNG.uniform(-1, 1, (1, 3, 4, 6)).astype(np.float32) for _ in range(3)]
    images = []
    for latent in latents:
        values = (matrix @ latent[0].reshape(3, 24) + bias[:, None]).reshape(3, 2, 2, 4, 6)
        images.append(values.transpose(0, 3, 1, 4, 2).reshape(1, 3, 8, 12).astype(np.float32))
    preview = fitted(latents, images, patch=2)
    np.testing.assert_allclose(preview.matrix, matrix, atol=1e-4)
    np.testing.assert_allclose(preview.bias, bias, atol=1e-4)
    picture = preview_pixels(preview, latents[0])
    assert picture.shape == (8, 12, 3)
    np.testing.assert_allclose(from_pixels(picture), images[0], atol=1 / 255)


def test_a_picture_is_shrunk_by_the_mean_of_squares() -> None:
    image = np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4)
    np.testing.assert_array_equal(shrunk(image, 2)[0, 0], [[2.5, 4.5], [10.5, 12.5]])


def test_a_bundle_shows_every_step_and_the_last_one_is_like_its_image(editing_bundle: Path) -> None:
    bundle = load_bundle(editing_bundle)
    preview = bundle.manifest.preview
    assert preview is not None and preview.patch == 2
    pictures: list[Step] = []
    result = Generator(bundle).generate("a red circle", seed=11, callback=pictures.append)
    shown = [step.preview() for step in pictures]
    assert len(shown) == 4 and all(item is not None and item.shape == (4, 4, 3) for item in shown)
    small = shrunk(result.float_image, result.height // 4)
    errors = [float(np.square(from_pixels(item) - small).mean()) for item in shown if item is not None]
    assert 10 * np.log10(1 / errors[-1]) > preview.psnr_db - 6
