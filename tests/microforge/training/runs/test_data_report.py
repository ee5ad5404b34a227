"""``mf-train --data FOLDER`` from photos to a checkpoint: it resumes, moves, and says what it left out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from microforge.checkpoint import read_checkpoint
from microforge.data.skipped import Skipped
from microforge.data.world.image_source import SceneSource
from microforge.errors import CheckpointError, DataError, SpecError
from microforge.training.engine.state import STATE
from microforge.training.runs.data_report import SKIPPED, report_skipped
from microforge.training.runs.stage_run import run_stage


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six smooth pictures of several caption_kinds and shapes with captions, one cut off, and one without a caption."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for number, kind in enumerate(("jpg", "png", "webp", "bmp", "gif", "jpg", "png")):
        pixels = Image.fromarray(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8)).resize((80 + number, 70))
        pixels.save(folder / f"{number}.{kind}")
        if number != 6:
            (folder / f"{number}.txt").write_text(f"picture {number}\na smooth picture\n", "utf-8")
    whole = (folder / "5.jpg").read_bytes()
    (folder / "5.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def test_photos_train_a_vae_and_a_flow_that_resume_exactly_after_the_folder_moved(
    tmp_path: Path, photos: Path, mini: Any
) -> None:
    run_stage(mini.request(tmp_path / "run", data=str(photos)))
    broken, bare = (tmp_path / "run/vae" / SKIPPED).read_text().splitlines()
    assert broken.startswith("5.jpg: is a damaged JPEG image (") and bare == "6.png: no caption"
    std = read_checkpoint(tmp_path / "run/vae/checkpoint").spec.vae.latent_std
    assert len(std) == 4 and min(std) > 0
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    run_stage(mini.request(tmp_path / "whole", "flow", data=str(photos)))
    run_stage(mini.request(tmp_path / "run", "flow", data=str(photos), steps=2))
    cache = tmp_path / "run/flow/latents.safetensors"
    assert len(load_file(cache)["latents"]) == 5
    stamp = cache.stat().st_mtime_ns
    moved = Path(shutil.move(photos, tmp_path / "elsewhere"))
    request = mini.request(tmp_path / "run", "flow", data=str(moved), resume=True)
    run_stage(request)
    assert cache.stat().st_mtime_ns == stamp, "not encoded again"
    first, second = (load_file(tmp_path / name / "flow" / STATE) for name in ("whole", "run"))
    assert all(torch.equal(first[name], second[name]) for name in first | second)
    with pytest.raises(CheckpointError, match="holds a run with data 'own images', not 'scenes'"):
        run_stage(mini.changed(request, data="scenes"))


def test_bad_data_is_refused_before_anything_is_written(tmp_path: Path, photos: Path, mini: Any) -> None:
    good = mini.request(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    shutil.copy(photos / "5.jpg", broken)
    shutil.copy(photos / "5.txt", broken)
    for request, error, says in (
        (mini.changed(good, data=str(tmp_path / "nowhere")), DataError, "does not exist; allowed: scenes"),
        (mini.changed(good, data=str(tmp_path / "empty")), DataError, "holds no image"),
        (mini.changed(good, data=str(broken)), DataError, "none of the 1 images"),
        (mini.changed(good, data="scenes", flip=True), SpecError, "flip and random_crop"),
    ):
        with pytest.raises(error, match=says):
            run_stage(request)
        assert not (tmp_path / "run").exists()


def test_report_skipped_warns_once_about_each_item_and_keeps_the_list_of_a_resumed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = SceneSource()
    console = Console(width=2000)
    for names, said in (("", False), ("ab", True), ("ab", False), ("c", True)):
        source.skipped = tuple(Skipped(name, "broken\nfile") for name in names)
        report_skipped(source, tmp_path, console)
        assert ("left out" in capsys.readouterr().out) == said
    assert (tmp_path / SKIPPED).read_text().splitlines() == [f"{name}: broken\\nfile" for name in "abc"]


def test_report_skipped_names_the_first_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SceneSource()
    source.skipped = tuple(Skipped(f"{number:02}.png", "no caption") for number in range(25))
    report_skipped(source, tmp_path, Console(width=2000))
    said = capsys.readouterr().out
    assert "25 left out" in said and "09.png" in said and "10.png" not in said
    assert len((tmp_path / SKIPPED).read_text().splitlines()) == 25
