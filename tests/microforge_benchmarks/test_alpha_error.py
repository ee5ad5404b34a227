"""The error of alpha: small for a matte of true images, and of the channel what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from microforge.data.world.image_source import SceneSource
from microforge.spec import preset
from microforge.vae import MicroForgeVAE
from microforge_benchmarks.evaluate.alpha_error import alpha_images, alpha_scores


def test_errors_of_channel_and_matte_are_measured_against_true_alpha() -> None:
    ((name, images),) = alpha_images(SceneSource(), None, 6, (64, 64))
    assert name == "images of the data" and images.shape == (6, 4, 64, 64)
    torch.manual_seed(0)
    spec = replace(preset("nano").vae, alpha=True)
    vae = MicroForgeVAE(spec).eval()
    with torch.no_grad():
        vae.decoder.out.weight.zero_()
        vae.decoder.out.bias.zero_()  # type: ignore[union-attr]
    scores = alpha_scores(vae, images)
    assert scores.images == 6 and scores.matte_true_images < 0.02
    assert scores.channel == pytest.approx(float((images[:, 3] - 0.5).abs().mean()), abs=1e-4)
    assert scores.plain_backgrounds == 0.0  # a grey image has no object
    assert alpha_scores(MicroForgeVAE(preset("nano").vae).eval(), images).channel is None
