"""Which latents of a source image are preserved in its edit (SPEC section 6); the twin of the runtimes' file.

Two rules, both applied to the latent after a sampling step. Latents outside a mask are preserved: they are put back at the
current noise level after every step (RePaint, arXiv 2201.09865). Of an edit without a mask, the edited region is where the
result's latent differs from the source's (as in DiffEdit, arXiv 2210.11427); elsewhere the source's latent is copied.

Letters: B images, C h w latent channels, height and width, H W image height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from microforge.errors import SpecError
from microforge.sampling import AfterStep

#: Distances to the source's latent, in its standard deviations: latents nearer than the first are preserved, those beyond
#: the second edited, those between blended.
PreserveDistances = tuple[float, float]


def binary_mask(mask: Tensor, image: Tensor) -> Tensor:
    """``mask`` (B or 1, 1, H, W) as zeros and ones in the dtype of ``image`` (B, 3, H, W).

    Raises:
        SpecError: for another shape, or a mask without a 1.
    """
    batch, _, height, width = image.shape
    if mask.shape not in ((batch, 1, height, width), (1, 1, height, width)):
        raise SpecError(
            f"the mask is {tuple(mask.shape)}; it must be ({batch}, 1, {height}, {width}), as the source image"
        )
    mask = (mask > 0.5).to(image)
    if not bool(mask.any()):
        raise SpecError("the mask is all zero; mark the pixels to change with 1")
    return mask


def latent_mask(mask: Tensor, downsample: int) -> Tensor:
    """(B, 1, h, w): 1 where any pixel of ``mask`` (B, 1, H, W) is 1; such a latent is sampled as a whole."""
    return F.max_pool2d(mask, downsample)


def after_step(
    source: Tensor,
    noise: Tensor,
    editable: Tensor | None = None,
    distances: PreserveDistances | None = None,
) -> AfterStep | None:
    """What preserves latents after each sampling step; None when all are sampled.

    Args:
        source: (B, C, h, w), the source's latent.
        noise: (B, C, h, w), what sampling started from.
        editable: the latent mask (B, 1, h, w); None: every latent may change.
        distances: of an edit; None: no latent is copied for being close to the source's.
    """
    if editable is None and distances is None:
        return None

    def after(z: Tensor, t: float) -> Tensor:
        if editable is not None:
            z = editable * z + (1.0 - editable) * ((1.0 - t) * source + t * noise)
        return preserve_source(z, source, distances) if t == 0.0 and distances is not None else z

    return after


def preserve_source(z: Tensor, source: Tensor, distances: PreserveDistances) -> Tensor:
    """``z`` (B, C, h, w) where it differs from ``source``, and next to there; ``source`` elsewhere.

    Between the two distances they are blended, so that a small difference of two machines' arithmetic stays small.
    """
    near, far = distances
    distance = (z - source).square().mean(1, keepdim=True).sqrt()  # (B, 1, h, w)
    edited = F.max_pool2d(((distance - near) / (far - near)).clamp(0.0, 1.0), 3, stride=1, padding=1)
    return source + edited * (z - source)
