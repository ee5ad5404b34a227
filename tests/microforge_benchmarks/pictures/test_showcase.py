"""Pictures of the documentation, made with miniature bundles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge.evaluation.generation import to_uint8_images
from microforge.io.console import exit_code
from microforge_benchmarks.pictures.sample_grid import PROMPTS
from microforge_benchmarks.pictures.showcase import app
from microforge_benchmarks.pictures.strip import ARROW, GAP, strip_examples


def test_showcase_shows_an_image_and_the_text_of_every_prompt(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "samples.png"
    assert exit_code(app, [str(bundle), "--out", str(out)]) == 0
    with Image.open(out) as sheet:
        assert sheet.width > 6 * 96 and sheet.height > 2 * 64
        colors = sheet.convert("L").getcolors(1 << 24)
    assert colors is not None and len(colors) > len(PROMPTS), "images and texts, not an empty page"


@pytest.mark.parametrize("task", ["edit", "inpaint", "super-resolve"])
def test_a_strip_shows_every_source_above_its_result(editing_bundle: Path, tmp_path: Path, task: str) -> None:
    out = tmp_path / "strip.png"
    words = [str(editing_bundle), "--task", task, "--out", str(out)]
    assert exit_code(app, words) == 0
    with Image.open(out) as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    batch = strip_examples(task, (64, 96))
    for index, source in enumerate(to_uint8_images(batch.sources)):
        left = GAP + index * (96 + GAP)
        above, below = (pixels[top : top + 64, left : left + 96] for top in (GAP, GAP + 64 + ARROW))
        np.testing.assert_array_equal(above, source)
        assert np.abs(below - above).mean() > 5, "the miniature generates something else"
    assert exit_code(app, words) == 2, "nothing is replaced without --force"


def test_a_strip_refuses_what_the_model_cannot_do(bundle: Path, tmp_path: Path) -> None:
    for task in ("edit", "paint"):
        assert exit_code(app, [str(bundle), "--task", task, "--out", str(tmp_path / "s.png")]) == 2
    assert not list(tmp_path.iterdir())
