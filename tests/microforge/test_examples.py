"""Every example runs, on the miniature model, and is short."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from microforge.checkpoint import read_checkpoint
from microforge.io.console import exit_code

pytestmark = pytest.mark.filterwarnings("ignore:the prompt is longer")  # the miniature reads 16 tokens
EXAMPLES = Path(__file__).parents[2] / "examples"
#: As small as an INT8 build of random weights can be.
RECIPE = """
model = "miniature"
target = "onnx"
[host]
machine = "x86_64"
instructions = []
threads = 1
[limits]
images = 2
image_psnr_median_db = 15.0
image_psnr_worst_db = 10.0
component_psnr_db = 10.0
guidance_norm_ratio_low = 0.1
guidance_norm_ratio_high = 10.0
relative_state_error = 10.0
[calibration]
samples = 1
inputs = 4
[schemes.text_encoder]
"*" = "weight-only"
[schemes.denoiser]
"*" = "weight-only"
[schemes.vae_decoder]
"*" = "static"
"""


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs ``python -m MODULE ...`` in this process, whose torch is loaded already."""

    def call(command: list[str], check: bool) -> None:
        assert check and command[:2] == [sys.executable, "-m"]
        app = importlib.import_module(command[2]).app
        assert exit_code(app, command[3:]) == 0

    monkeypatch.setattr(subprocess, "run", call)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_fewer_than_forty_lines_and_shows_its_command(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) < 40
    assert f"\npython examples/{path.name}" in text.split('"""')[1]


def test_generate_and_edit_write_their_images(
    monkeypatch: pytest.MonkeyPatch, editing_checkpoint: Path, tmp_path: Path
) -> None:
    model = ("--model", editing_checkpoint, "--out", tmp_path)
    run(monkeypatch, "generate", "a star", "--count", 2, *model)
    first, second = (pixels(tmp_path / f"generated-{seed}.png") for seed in (0, 1))
    assert first.shape == (64, 64, 3) and not np.array_equal(first, second)
    run(monkeypatch, "edit", tmp_path / "generated-0.png", "make it red", *model)
    assert pixels(tmp_path / "edited.png").shape == (64, 64, 3)


def test_inpaint_fills_the_right_half_alone(
    monkeypatch: pytest.MonkeyPatch, editing_checkpoint: Path, tmp_path: Path
) -> None:
    model = ("--model", editing_checkpoint, "--out", tmp_path)
    run(monkeypatch, "inpaint", *model)
    run(monkeypatch, "generate", "a red circle left of a blue square", "--count", 4, *model)
    filled, source = pixels(tmp_path / "inpainted.png"), pixels(tmp_path / "generated-3.png")
    assert np.array_equal(filled[:, :32], source[:, :32]) and not np.array_equal(filled, source)


def test_super_resolve_enlarges_four_times(
    monkeypatch: pytest.MonkeyPatch, editing_checkpoint: Path, tmp_path: Path
) -> None:
    run(monkeypatch, "super_resolve", "--model", editing_checkpoint, "--out", tmp_path)
    assert pixels(tmp_path / "enlarged.png").shape == (64, 64, 3)


@pytest.mark.usefixtures("in_process")
def test_export_check_and_benchmark_of_an_int8_bundle(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One INT8 build, which takes seconds."""
    recipe, bundle, report = tmp_path / "recipe.toml", tmp_path / "int8.mfb", tmp_path / "report"
    recipe.write_text(RECIPE, "utf-8")
    run(monkeypatch, "export_int8", checkpoint, "--recipe", recipe, "--out", bundle)
    assert "GeneratedImage(generate, 64x64" in capfd.readouterr().out
    run(monkeypatch, "check_quantization", bundle, "--checkpoint", checkpoint)
    rows = re.findall(r"^ *([\d.]+) dB  \w", capfd.readouterr().out, re.MULTILINE)
    assert len(rows) == 3 and all(float(psnr) > 10 for psnr in rows)
    run(monkeypatch, "benchmark", bundle, "--runs", 1, "--out", report)
    assert (report / "report.html").is_file() and (report / "rows.json").is_file()


@pytest.mark.usefixtures("in_process")
def test_train_on_a_folder_and_generate_with_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, mini: Any, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, color in enumerate(("red", "blue", "green", "yellow")):
        Image.new("RGB", (70, 64), color).save(images / f"{index}.png")
        (images / f"{index}.txt").write_text(f"all {color}", "utf-8")
    start = mini.random_checkpoint(tmp_path / "start")
    run(monkeypatch, "train", images, "--init", start, "--steps", 2, "--batch", 4, "--out", tmp_path / "run")
    assert pixels(tmp_path / "run" / "after-training.png").shape == (64, 64, 3)
    assert read_checkpoint(tmp_path / "run" / "flow" / "checkpoint").stages[-1] == "flow"


@pytest.mark.usefixtures("in_process")
def test_distill_writes_a_student_of_fewer_steps(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--student-steps",
        2,
        "--steps",
        1,
        "--batch",
        2,
        "--trajectories",
        4,
        "--out",
        tmp_path / "student",
    )
    run(monkeypatch, "distill", checkpoint, *options)
    steps = re.findall(r": (\d+) steps, ", capsys.readouterr().out)
    assert steps == ["4", "2"]
