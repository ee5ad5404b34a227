"""Reconstructions of held-out images: the metrics of every group, and the sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from microforge.data.stickers import image_source
from microforge.data.stickers.image_source import StickerSource
from microforge.evaluation import reconstruction
from microforge.evaluation.autoencoder_quality import comparison_sheet, held_out_images, reconstruct
from microforge.io.console import DONE, exit_code
from microforge.vae import MicroForgeVAE


def test_metrics_are_those_of_each_image(mini: Any) -> None:
    vae = MicroForgeVAE(mini.MINI.vae).eval()
    images = torch.rand(10, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = reconstruct(vae, images)
    error = (result.outputs[7] - images[7]).square().mean()
    assert float(result.psnr[7]) == pytest.approx(float(-10 * torch.log10(error)), abs=1e-3)
    assert result.scores.images == 10 and result.scores.psnr_db_p10 <= result.scores.psnr_db
    assert comparison_sheet([result, result], 3).shape == (3, 4 * 64, 3 * 64)


def test_groups_are_held_out_stickers_and_shapes(
    sprites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_source, "ENOUGH_TO_HOLD_OUT", 4)
    monkeypatch.setattr(image_source, "held_out_picture", lambda subject, style: style == "wide")
    monkeypatch.setattr(image_source, "held_out_subject", lambda subject: subject == "subject-2")
    source = StickerSource(sprites, tmp_path, Console(quiet=True))
    groups = {name: len(images) for name, images in held_out_images(source, 3, (64, 64))}
    assert groups == {"unseen subjects": 2, "unseen styles": 3, "shapes": 3}
    assert [name for name, _ in held_out_images(None, 2, (64, 64))] == ["shapes"]


def test_command_prints_json_and_writes_the_sheet(
    mini: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = mini.random_checkpoint(tmp_path / "model")
    words = [
        str(checkpoint),
        "--count",
        "2",
        "--size",
        "64",
        "--pictures",
        str(tmp_path / "sheet.png"),
        "--each",
        "2",
    ]
    assert exit_code(reconstruction.app, words) == DONE
    assert json.loads(capsys.readouterr().out)["shapes"]["images"] == 2
    assert Image.open(tmp_path / "sheet.png").size == (128, 128)
