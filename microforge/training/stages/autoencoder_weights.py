"""Weights of an autoencoder for one with another output: a decoder without alpha starts one with alpha."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.errors import CheckpointError
from microforge.vae import MicroForgeVAE


@torch.no_grad()
def load_autoencoder(checkpoint: Checkpoint, network: MicroForgeVAE) -> None:
    """Load the autoencoder of ``checkpoint`` into ``network``.

    Where only ``network`` has alpha, its alpha is 0.5 everywhere at first, and the colours are the checkpoint's, bit for bit.

    Raises:
        CheckpointError: when the weights do not fit, or only the checkpoint has alpha.
    """
    if network.spec.alpha == checkpoint.spec.vae.alpha:
        checkpoint.load_into("vae", network)
        return
    if checkpoint.spec.vae.alpha:
        raise CheckpointError("the checkpoint's decoder gives alpha; train with --set alpha=true")
    opaque = MicroForgeVAE(checkpoint.spec.vae)
    checkpoint.load_into("vae", opaque)
    try:
        network.encoder.load_state_dict(opaque.encoder.state_dict())
        target = network.decoder.state_dict()
        weights = {name: _padded(value, target[name]) for name, value in opaque.decoder.state_dict().items()}
        network.decoder.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:240]
        raise CheckpointError(f"the vae weights do not fit the configuration: {reason}") from None


def _padded(value: Tensor, target: Tensor) -> Tensor:
    """``value`` with zeros for the output channels that ``target`` has beyond it."""
    if value.ndim == 0 or value.shape[0] >= target.shape[0]:
        return value
    return F.pad(value, (0, 0) * (value.ndim - 1) + (0, target.shape[0] - value.shape[0]))
