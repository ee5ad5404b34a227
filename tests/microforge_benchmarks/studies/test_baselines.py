"""Alternating rounds and their ratios; a miniature rival where diffusers is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from microforge.bundle.files import load_bundle
from microforge.errors import MissingExtraError, SpecError
from microforge.io.console import exit_code
from microforge_benchmarks.studies import baseline_models
from microforge_benchmarks.studies.baseline_models import Rival, RivalDrawing, exported, peak_of
from microforge_benchmarks.studies.baselines import (
    OURS,
    Contest,
    check_names,
    interleaved,
    lines,
    summary,
)
from microforge_benchmarks.studies.baselines_cli import against_plot, app

HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None
MINI = {
    "mini": Rival(
        unet={
            "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1, "cross_attention_dim": 16,
            "attention_head_dim": 8,
        },
        decoder={"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4},
    )
}  # fmt: skip


def test_everybody_draws_once_a_round_and_the_order_turns() -> None:
    order: list[str] = []
    draws = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved(draws, 2)
    assert "".join(order) == "abc" + "abc" + "cba"
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_taken_within_a_round(bundle: Path) -> None:
    contest = Contest(("sd-turbo",), bundle, rounds=3)
    times = {OURS: [1.0, 2.0, 4.0], "sd-turbo": [10.0, 20.0, 40.0]}  # a machine that slows down
    values = summary(load_bundle(bundle), contest, 4, times, {OURS: 10**8, "sd-turbo": 5 * 10**9})
    ours, rival = values["entries"]
    assert rival["ratio"] == rival["ratio_low"] == rival["ratio_high"] == 10.0
    assert (ours["claim"], rival["claim"]) == ("same image", "compute and memory only")
    assert lines(values)[1].memory == "5,000"
    assert against_plot(json.loads(json.dumps(values))).startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["", "sd-turbo,sdxl"])
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="bk-sdm-tiny"):
        check_names(text)


def test_another_models_checkpoint_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(bundle), "--with", "torch-eager", "--out", str(tmp_path / "out"), "--cache", str(tmp_path)]
    assert exit_code(app, words) == 2
    assert "was not built from" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.skipif(HAS_DIFFUSERS, reason="diffusers is installed")
def test_without_diffusers_the_extra_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"microforge\[rivals\]"):
        exported("bk-sdm-tiny", (64, 64), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not HAS_DIFFUSERS, reason="needs the extra rivals")
def test_a_miniature_rival_is_exported_once_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("mini", (64, 64), tmp_path, MINI)
    image = RivalDrawing(folder, steps=2, threads=1)()
    assert getattr(image, "shape", None) == (1, 3, 64, 64)
    monkeypatch.setattr(baseline_models, "_export", lambda *_: pytest.fail("exported again"))
    assert exported("mini", (64, 64), tmp_path, MINI) == folder
    peak = peak_of(folder, 2, 1)
    assert peak is not None and peak > 2**20
