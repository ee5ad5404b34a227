"""The oracle reads true renders without a mistake, and still does when they are blurred and discoloured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from microforge.data.world.renderer import render
from microforge.data.world.scenes import COLORS, KINDS, SHAPES, Scene, SceneObject, sample_scene
from microforge.errors import DataError
from microforge.evaluation.oracle.detector import UNKNOWN, Detection, detect, nearest_color
from microforge.evaluation.oracle.templates import fit_shapes, project, templates

SCENES_PER_KIND = 60
Floats = NDArray[np.float32]


def _scenes(kind: str, count: int = SCENES_PER_KIND) -> list[Scene]:
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    return [sample_scene(rng, kind, held_out=bool(index % 2)) for index in range(count)]


def _images(scenes: list[Scene], height: int, width: int) -> list[Floats]:
    return list(render(scenes, height, width).permute(0, 2, 3, 1).numpy())


def _reads(scene: Scene, detection: Detection) -> bool:
    """Every object has its twin: shape, colour and count equal, centre within 1 %, radius within 6 %."""
    if detection.background != scene.background or len(detection.objects) != len(scene.objects):
        return False
    left = list(detection.objects)
    for item in scene.objects:
        twin = min(left, key=lambda one: abs(one.x - item.x) + abs(one.y - item.y))
        left.remove(twin)
        near = max(abs(twin.x - item.x), abs(twin.y - item.y)) < 0.01
        if not near or (twin.shape, twin.color) != (item.shape, item.color):
            return False
        if abs(twin.radius - item.radius) > 0.06 * item.radius:
            return False
    return True


def _accuracy(kind: str, height: int, width: int, change: Callable[[Floats], Floats] = lambda x: x) -> float:
    scenes = _scenes(kind)
    images = _images(scenes, height, width)
    return sum(_reads(s, detect(change(i))) for s, i in zip(scenes, images, strict=True)) / len(scenes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(128, 128), (256, 256), (128, 192)])
def test_true_renders_are_read_in_every_category(kind: str, size: tuple[int, int]) -> None:
    assert _accuracy(kind, *size) >= 0.99


@pytest.mark.parametrize("kind", KINDS)
def test_blur_and_shifted_colors_hardly_matter(kind: str) -> None:
    rng = np.random.default_rng(5)

    def spoil(image: Floats) -> Floats:
        drifted = image + rng.uniform(-0.05, 0.05, 3)
        blurred: Floats = np.clip(ndimage.gaussian_filter(drifted, (1.0, 1.0, 0.0)), 0.0, 1.0).astype(
            np.float32
        )
        return blurred

    assert _accuracy(kind, 128, 128, spoil) >= 0.97


def test_uint8_and_float_images_are_read_alike() -> None:
    [image] = _images(_scenes("two", 1), 128, 128)
    from_uint8, from_floats = detect((image * 255).round().astype(np.uint8)), detect(image)
    assert [one.shape for one in from_uint8.objects] == [one.shape for one in from_floats.objects]
    assert from_uint8.objects[0].x == pytest.approx(from_floats.objects[0].x, abs=1e-3)


def test_noise_and_specks_are_not_objects() -> None:
    rng = np.random.default_rng(0)
    scene = _scenes("single", 1)[0]
    [image] = _images([scene], 128, 128)
    noisy = np.clip(image + rng.normal(0.0, 0.03, image.shape), 0, 1).astype(np.float32)
    noisy[3:6, 3:6] = 1.0 - noisy[3:6, 3:6]
    assert _reads(scene, detect(noisy))


def test_an_empty_image_holds_nothing() -> None:
    detection = detect(np.full((64, 96, 3), 0.52, np.float32))
    assert detection.objects == () and detection.background == "gray"


def test_a_blob_that_is_no_shape_is_unknown() -> None:
    image = np.ones((128, 128, 3), np.float32)
    image[60:68, 14:114] = (0.9, 0.08, 0.12)  # a long bar
    [bar] = detect(image).objects
    assert bar.shape == UNKNOWN and bar.color == "red" and bar.confidence < 0.6
    assert bar.box == (14, 60, 114, 68)


def test_objects_that_touch_are_not_counted_as_either() -> None:
    item = SceneObject("circle", "red", "medium", 0.4, 0.5, 0.16, COLORS["red"])
    scene = Scene("white", COLORS["white"], (item, replace(item, x=0.68)), "counting", None)
    [one] = detect(_images([scene], 128, 128)[0]).objects
    assert one.shape == UNKNOWN


def test_a_ring_is_not_a_circle_and_its_hole_is_not_an_object() -> None:
    item = SceneObject("ring", "blue", "large", 0.5, 0.5, 0.24, COLORS["blue"])
    scene = Scene("yellow", COLORS["yellow"], (item,), "single", None)
    [one] = detect(_images([scene], 128, 128)[0]).objects
    assert one.shape == "ring" and one.confidence > 0.9


@pytest.mark.parametrize("shape", [(63, 128, 3), (128, 128), (128, 128, 4)])
def test_arrays_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least 64 px"):
        detect(np.zeros(shape, np.float32))


def test_nearest_color_of_a_named_color_is_itself() -> None:
    assert [nearest_color(np.asarray(rgb, np.float32)) for rgb in COLORS.values()] == list(COLORS)


def test_templates_are_projected_exactly_and_never_confused() -> None:
    for template in templates():
        patch = project(template.coverage, 48, 50, 24.3, 25.1, 15.0)
        assert float(patch.sum()) == pytest.approx(template.area * 15.0**2, rel=1e-4)
        best, second = fit_shapes(patch)[:2]
        assert best.shape == template.shape and best.iou > 0.99 and second.iou < 0.85
        assert (best.x, best.y, best.radius) == pytest.approx((24.3, 25.1, 15.0), abs=0.02)
    assert tuple(template.shape for template in templates()) == SHAPES
