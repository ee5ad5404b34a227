"""Alpha: a fourth channel of the decoder, learnt beside the colours, which stay what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from microforge.checkpoint import read_checkpoint, write_checkpoint
from microforge.data.world.image_source import SceneSource
from microforge.errors import CheckpointError, SpecError
from microforge.spec import ModelSpec, from_dict, preset, to_dict
from microforge.training.stages.autoencoder_weights import load_autoencoder
from microforge.vae import MicroForgeVAE

_SPEC = preset("nano")
_ALPHA = replace(_SPEC, vae=replace(_SPEC.vae, alpha=True))


def test_files_of_opaque_models_do_not_mention_alpha() -> None:
    assert "alpha" not in to_dict(_SPEC)["vae"] and to_dict(_ALPHA)["vae"]["alpha"] is True
    assert from_dict(ModelSpec, to_dict(_ALPHA)) == _ALPHA and from_dict(ModelSpec, to_dict(_SPEC)) == _SPEC


def test_colours_of_a_decoder_that_gets_alpha_are_bit_for_bit_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    opaque = MicroForgeVAE(_SPEC.vae).eval()
    write_checkpoint(tmp_path / "opaque", _SPEC, {"vae": opaque}, None, ("vae",))
    network = MicroForgeVAE(_ALPHA.vae).eval()
    load_autoencoder(read_checkpoint(tmp_path / "opaque"), network)
    latent = torch.randn(1, _SPEC.vae.latent_channels, 2, 3)
    with torch.no_grad():
        decoded = network.decode_with_alpha(latent)
        before = MicroForgeVAE(_SPEC.vae).eval()
        read_checkpoint(tmp_path / "opaque").load_into("vae", before)
        assert torch.equal(decoded[:, :3], before.decode(latent))
        assert torch.equal(network.decode(latent), decoded[:, :3])
    assert (decoded[:, 3] == 0.5).all()
    with pytest.raises(SpecError, match="gives no alpha"):
        opaque.decode_with_alpha(latent)
    write_checkpoint(tmp_path / "alpha", _ALPHA, {"vae": network}, None, ("vae",))
    with pytest.raises(CheckpointError, match="--set alpha=true"):
        load_autoencoder(read_checkpoint(tmp_path / "alpha"), opaque)


def test_images_with_alpha_show_the_same_scenes_and_cover_their_objects() -> None:
    source, size = SceneSource(), (64, 64)
    for crop in (None, (32, 32)):
        images = source.images(0, 3, 4, size, "cpu", crop)
        with_alpha = source.images_with_alpha(0, 3, 4, size, "cpu", crop)
        assert torch.equal(with_alpha[:, :3], images)
        alpha = with_alpha[:, 3]
        assert 0.0 <= float(alpha.min()) and 0.5 < float(alpha.max()) <= 1.0
    whole = source.images_with_alpha(0, 3, 4, size, "cpu")
    free = whole[:, 3:].expand(-1, 3, -1, -1) == 0
    colors = whole[:, :3]
    for image, mask in zip(colors, free, strict=True):  # what no object covers has one colour
        assert all(float(image[channel][mask[channel]].std()) < 1e-6 for channel in range(3))
