"""Rules that judge edits and inpaintings: the detected objects against the instruction, and PSNR by region.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from microforge.changed_pixels import DIFFERENCE_THRESHOLD, MARGIN, MIN_RADIUS
from microforge.data.world.edits import Edit
from microforge.data.world.scenes import Scene, SceneObject, place_of
from microforge.errors import DataError
from microforge.evaluation.oracle.detector import DetectedObject, Detection
from microforge.evaluation.oracle.verdict import in_region


def shows(scene: Scene, detection: Detection) -> bool:
    """Whether an image shows exactly the objects of ``scene``, by shape and colour, on its background."""
    expected = Counter((item.shape, item.color) for item in scene.objects)
    detected = Counter((one.shape, one.color) for one in detection.objects)
    return expected == detected and detection.background == scene.background


def instruction_followed(edit: Edit, detection: Detection) -> bool:
    """Whether an image shows the objects of the target of ``edit``, with a moved object in its new region."""
    if not shows(edit.target, detection):
        return False
    if edit.operation != "move":
        return True
    moved = set(edit.target.objects) - set(edit.source.objects)
    return all(
        any(
            _same(one, item) and in_region(place_of(item.x, item.y), one.x, one.y)
            for one in detection.objects
        )
        for item in moved
    )


def completed(item: SceneObject, detection: Detection) -> bool:
    """Whether an image shows the masked object ``item`` again: its shape and colour, centred within its radius."""
    return any(
        _same(one, item) and (one.x - item.x) ** 2 + (one.y - item.y) ** 2 <= item.radius**2
        for one in detection.objects
    )


def _same(one: DetectedObject, item: SceneObject) -> bool:
    return (one.shape, one.color) == (item.shape, item.color)


def region_psnr(images: Tensor, references: Tensor, regions: Tensor) -> Tensor:
    """PSNR in dB over the pixels of a region, for each image.

    Args:
        images: (B, 3, H, W) in [0, 1].
        references: (B, 3, H, W) in [0, 1].
        regions: (B, 1, H, W), above 0 on the pixels that count.

    Returns:
        (B,), infinite where two images are equal in the region, and NaN where the region is empty.

    Raises:
        DataError: when the shapes do not match.
    """
    batch, _, height, width = images.shape
    if images.shape != references.shape or regions.shape != (batch, 1, height, width):
        raise DataError(
            f"images {tuple(images.shape)}, references {tuple(references.shape)} and regions {tuple(regions.shape)} "
            "do not match; give (B, 3, H, W) twice and (B, 1, H, W)"
        )
    inside = (regions > 0).expand_as(images)
    error = torch.where(inside, (images.double() - references.double()).square(), 0.0)
    return -10.0 * torch.log10(error.sum((1, 2, 3)) / inside.sum((1, 2, 3)))


def composited(images: Tensor, sources: Tensor, regions: Tensor) -> Tensor:
    """``images`` inside ``regions`` (B, 1, H, W) and the exact pixels of ``sources`` elsewhere: (B, 3, H, W)."""
    return torch.where(regions > 0, images, sources)


def changed_region(images: Tensor, sources: Tensor) -> Tensor:
    """Mask of the pixels that an edit has changed, estimated from its result and its source.

    Users give no mask with an instruction; this estimate allows to composite the result with the source.

    Args:
        images: results (B, 3, H, W) in [0, 1].
        sources: source images (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W) of zeros and ones.
    """
    difference = F.avg_pool2d(images - sources, 3, stride=1, padding=1).abs().amax(1, keepdim=True)
    side = min(images.shape[2:])
    radius, margin = (max(1, round(share * side)) for share in (MIN_RADIUS, MARGIN))
    # Beyond the image's edge everything counts as changed, so that a region may touch the edge.
    padded = F.pad((difference > DIFFERENCE_THRESHOLD).to(images), (radius,) * 4, value=1.0)
    cores = 1.0 - F.max_pool2d(1.0 - padded, 2 * radius + 1, stride=1)
    reach = radius + margin
    return F.max_pool2d(cores, 2 * reach + 1, stride=1, padding=reach)
