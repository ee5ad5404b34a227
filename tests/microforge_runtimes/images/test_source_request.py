"""From a user's image to a model's inputs and back: what is preserved, in numbers and in what is seen."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from microforge.bundle.reference_model import task_entries
from microforge_runtimes.images.alpha import off_white, over_white
from microforge_runtimes.images.image_file import Pixels, SourceImage, read_mask, read_source_image
from microforge_runtimes.images.resampling import upsampled
from microforge_runtimes.images.source_request import (
    SourceRequest,
    assemble_enlargement,
    from_canvas,
    source_request,
    split,
    to_canvas,
)
from microforge_runtimes.sampler import to_pixels
from tests.microforge.io.images import P3, base_mask, base_picture, encoded, matrix_profile

CANVAS = (256, 256)
TASKS = {
    name: task.source
    for name, task in task_entries(("edit", "inpaint", "super-resolve"), False, None).items()
    if task.source is not None
}


def _enlarged(source: SourceImage, factor: int) -> Pixels:
    """Super-resolution by a model that does nothing but bicubic upsampling."""
    request = source_request("super-resolve", TASKS["super-resolve"], source, factor=factor)
    generated = []
    for tile in split(request, CANVAS):
        inputs = to_canvas(request, CANVAS, tile)
        generated.append((tile, inputs, to_pixels(upsampled(inputs.source, request.magnification))))
    return assemble_enlargement(request, generated)


def _edited(request: SourceRequest, image: Pixels | None = None) -> Pixels:
    """An edit or inpainting by a model that gives ``image``, by default what it is shown."""
    inputs = to_canvas(request, CANVAS, split(request, CANVAS)[0])
    return from_canvas(request, inputs, to_pixels(inputs.source) if image is None else image)


def _glass(color: tuple[int, int, int], alpha: int) -> SourceImage:
    return SourceImage(np.full((64, 64, 3), color, np.uint8), np.full((64, 64), alpha, np.uint8))


def _soft_disc() -> SourceImage:
    """One colour everywhere; alpha is a disc with a soft edge."""
    disc = Image.new("L", (512, 512))
    ImageDraw.Draw(disc).ellipse((60, 60, 452, 452), fill=255)
    alpha = np.asarray(disc.resize((64, 64), Image.Resampling.BOX))
    return SourceImage(np.full((64, 64, 3), (220, 20, 20), np.uint8), alpha)


@pytest.mark.parametrize("factor", [2, 4])
def test_enlarging_glass_keeps_its_colour_and_its_alpha(factor: int) -> None:
    found = _enlarged(_glass((200, 40, 40), 128), factor)
    assert (found[..., 3] == 128).all()
    assert np.abs(found[..., :3].astype(int) - (200, 40, 40)).max() <= 2


def test_enlarging_a_soft_edge_leaves_no_pale_ring_over_black() -> None:
    found = _enlarged(_soft_disc(), 2)
    np.testing.assert_array_equal(found[..., :3], np.broadcast_to((220, 20, 20), (128, 128, 3)))
    assert 0 < ((found[..., 3] > 0) & (found[..., 3] < 255)).mean() < 0.2, "the edge is still soft"


def test_enlarging_pixels_over_invisible_ones_lets_nothing_shine_through() -> None:
    colors = np.zeros((32, 32, 3), np.uint8)
    colors[:, :16], colors[:, 16:] = (10, 200, 30), (255, 0, 255)  # magenta, which nobody sees
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, :16] = 255
    found = _enlarged(SourceImage(colors, alpha), 2)
    visible = found[..., 3] > 8
    assert np.abs(found[visible][:, :3].astype(int) - (10, 200, 30)).max() <= 3


def test_an_edit_takes_white_off_again_and_keeps_alpha() -> None:
    pixels = np.random.default_rng(0).integers(40, 220, (256, 256, 3), dtype=np.uint8)
    alpha = np.linspace(0, 255, 256).round().astype(np.uint8)[None].repeat(256, 0)
    source = SourceImage(pixels, alpha)
    found = _edited(source_request("edit", TASKS["edit"], source))
    np.testing.assert_array_equal(found[..., 3], alpha)
    seen = over_white(found[..., :3], alpha).astype(int)
    assert np.abs(seen - source.on_white).max() <= 1
    clear = alpha >= 64
    assert np.abs(found[clear][:, :3].astype(int) - pixels[clear]).max() <= 3, "half a level of 255, times 4"


def test_off_white_is_the_inverse_of_over_white_for_every_alpha() -> None:
    colors = np.stack(np.meshgrid(np.arange(256), np.arange(1, 256)), -1).astype(np.uint8)
    pixels, alpha = np.repeat(colors[..., :1], 3, 2), colors[..., 1]
    back = off_white(over_white(pixels, alpha), alpha)
    error = np.abs(back.astype(int) - pixels)[..., 0]
    assert (error <= np.ceil(0.5 * 255 / alpha)).all() and (error[alpha == 255] == 0).all()


def test_inpainting_keeps_every_other_pixel_in_its_own_profile() -> None:
    data = encoded(base_picture(), icc_profile=matrix_profile(*P3))
    source = read_source_image(Image.open(io.BytesIO(data)))
    request = source_request("inpaint", TASKS["inpaint"], source, read_mask(base_mask(), source))
    found = _edited(request, np.full((*CANVAS, 3), (30, 200, 90), np.uint8))
    outside = np.asarray(base_mask()) == 0
    np.testing.assert_array_equal(found[outside], source.stored[outside])
    assert source.profile is not None
    shown = np.asarray(source.profile.to_srgb(Image.fromarray(found)), int)
    assert np.abs(shown[~outside] - (30, 200, 90)).max() <= 4, "what was generated is sRGB, and is seen so"


@pytest.mark.parametrize("task", ["edit", "super-resolve"])
def test_results_of_an_image_with_a_profile_look_like_it(task: str) -> None:
    image = base_picture().resize((64, 44)).point(lambda level: 60 + level // 2)  # colours that sRGB has
    source = read_source_image(Image.open(io.BytesIO(encoded(image, icc_profile=matrix_profile(*P3)))))
    found = (
        _edited(source_request("edit", TASKS["edit"], source))
        if task == "edit"
        else _enlarged(source, 2)[::2, ::2]
    )
    assert found.shape == source.stored.shape
    assert np.abs(found.astype(int) - source.stored).mean() < 6


def test_inpainting_transparent_pixels_makes_them_opaque_and_no_others() -> None:
    image = base_picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 60, 140))
    source = read_source_image(image)
    request = source_request("inpaint", TASKS["inpaint"], source, read_mask(base_mask(), source))
    found = _edited(request, np.full((*CANVAS, 3), (30, 200, 90), np.uint8))
    inside = np.asarray(base_mask()) > 0
    assert (found[inside] == (30, 200, 90, 255)).all()
    np.testing.assert_array_equal(found[~inside], np.asarray(image)[~inside])


def _sticker(color: tuple[int, int, int], outline: tuple[int, int, int] | None, side: int) -> Pixels:
    """A disc of ``color``, with an ``outline`` of a thirtieth of its ``side``: (side, side, 4) with a soft edge."""
    large, width = Image.new("RGBA", (4 * side, 4 * side)), 4 * side // 30
    draw = ImageDraw.Draw(large)
    draw.ellipse((width, width, 4 * side - width, 4 * side - width), fill=outline or color)
    draw.ellipse((2 * width, 2 * width, 4 * side - 2 * width, 4 * side - 2 * width), fill=color)
    return np.asarray(large.resize((side, side), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("outline", [None, (20, 20, 20), (255, 255, 255)])
@pytest.mark.parametrize("side", [256, 600])
def test_a_recolouring_by_a_soft_model_leaves_no_white_rim_over_black(
    outline: tuple[int, int, int] | None, side: int
) -> None:
    before, after = (_sticker(color, outline, side) for color in ((220, 20, 20), (20, 40, 200)))
    source, result = (SourceImage(image[..., :3], before[..., 3]) for image in (before, after))
    request, perfect = (source_request("edit", TASKS["edit"], image) for image in (source, result))
    shown = to_pixels(to_canvas(perfect, CANVAS, split(perfect, CANVAS)[0]).source)
    soft = np.asarray(Image.fromarray(shown).filter(ImageFilter.GaussianBlur(1.2)))
    edited = _edited(request, soft)
    rim = (before[..., 3] > 0) & (
        np.hypot(*(np.indices((side, side)) - side / 2 + 0.5)) > side * (0.5 - 1 / 24)
    )
    over_black = [image[rim][:, :3] * (image[rim][:, 3:] / 255.0) for image in (edited, after)]
    too_light = np.clip(over_black[0] - over_black[1], 0, None)
    assert np.percentile(too_light, 99) <= (12 if outline != (255, 255, 255) else 25)
    assert np.abs(over_black[0] - over_black[1]).mean() < 10, "an outline keeps its colour, white ones too"
