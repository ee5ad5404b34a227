"""Which cells of a latent stay the source's own when an image is drawn from a source (SPEC section 6).

Two rules, both applied to the latent after a step. Cells outside a mask are known, and stand at the current noise level
after every step (RePaint, arXiv 2201.09865). Of an edit, cells that came out close to the source's count as unchanged
and are the source's exactly at the end: where an edit lies is told from what it did, as in DiffEdit (arXiv 2210.11427),
and all else has no error of the drawing's.

Letters: B images, C h w latent channels, height and width, H W image height and width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from microforge.sampling import AfterStep

#: Distances to the source's latent, in its standard deviations: a cell nearer than the first is unchanged, one beyond
#: the second changed.
PreserveDistances = tuple[float, float]


def latent_mask(mask: Tensor, downsample: int) -> Tensor:
    """(B, 1, h, w): 1 for every cell with a masked pixel of ``mask`` (B, 1, H, W), which is redrawn as a whole."""
    return F.max_pool2d(mask, downsample)


def after_step(
    known: Tensor, noise: Tensor, hole: Tensor | None = None, unchanged: PreserveDistances | None = None
) -> AfterStep | None:
    """What is done to the latent after each step, or None for nothing.

    Args:
        known, noise: (B, C, h, w), the source's latent and what the drawing started from.
        hole: (B, 1, h, w), the cells that are drawn; None: all.
        unchanged: of an edit; None: cells are left as drawn.
    """
    if hole is None and unchanged is None:
        return None

    def after(z: Tensor, t: float) -> Tensor:
        if hole is not None:
            z = hole * z + (1.0 - hole) * ((1.0 - t) * known + t * noise)
        return preserve_source(z, known, unchanged) if t == 0.0 and unchanged is not None else z

    return after


def preserve_source(z: Tensor, known: Tensor, unchanged: PreserveDistances) -> Tensor:
    """``z`` (B, C, h, w) where it differs from ``known``, and next to there; ``known`` elsewhere.

    Between the two distances of ``unchanged`` it is a mixture, so that a small difference of two machines' arithmetic
    stays small.
    """
    near, far = unchanged
    distance = (z - known).square().mean(1, keepdim=True).sqrt()  # (B, 1, h, w)
    drawn = F.max_pool2d(((distance - near) / (far - near)).clamp(0.0, 1.0), 3, stride=1, padding=1)
    return known + drawn * (z - known)
