"""Interleaved rounds and their ratios, and a miniature baseline where diffusers is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from microforge.bundle.files import load_bundle
from microforge.errors import MissingExtraError, SpecError
from microforge.io.console import exit_code
from microforge_benchmarks.studies import baseline_models
from microforge_benchmarks.studies.baseline_models import (
    BaselineModel,
    BaselineSampler,
    baseline_peak,
    export_baseline,
)
from microforge_benchmarks.studies.baselines import (
    BUNDLE,
    BaselineReport,
    BaselineSettings,
    baseline_report,
    check_names,
    interleaved,
)
from microforge_benchmarks.studies.baselines_cli import app
from microforge_benchmarks.studies.baselines_view import baselines_plot, baselines_table

HAS_DIFFUSERS = importlib.util.find_spec("diffusers") is not None
MINI = {
    "mini": BaselineModel(
        unet={
            "block_out_channels": (32, 64), "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1, "cross_attention_dim": 16,
            "attention_head_dim": 8,
        },
        decoder={"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4},
    )
}  # fmt: skip


def test_every_model_runs_once_a_round_and_the_order_alternates() -> None:
    order: list[str] = []
    samplers = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved(samplers, 2)
    assert "".join(order) == "abc" + "abc" + "cba"
    assert {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratios_are_taken_within_a_round(bundle: Path) -> None:
    settings = BaselineSettings(("sd-turbo",), bundle, rounds=3)
    times = {BUNDLE: [1.0, 2.0, 4.0], "sd-turbo": [10.0, 20.0, 40.0]}  # a machine that slows down
    report = baseline_report(load_bundle(bundle), settings, times, {BUNDLE: 10**8, "sd-turbo": 5 * 10**9})
    first, baseline = report.entries
    assert baseline.ratio == baseline.ratio_low == baseline.ratio_high == 10.0
    assert (first.claim, baseline.claim) == ("same image", "compute and memory only")
    assert BaselineReport.model_validate_json(report.model_dump_json()) == report
    assert list(baselines_table(report).columns[4].cells) == ["100", "5,000"]
    assert baselines_plot(report).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["baselines.json", "baselines-eager.json"])
def test_checked_in_results_are_reports(name: str) -> None:
    result = Path(__file__).parents[3] / "benchmarks" / "results" / name
    report = BaselineReport.model_validate_json(result.read_text("utf-8"))
    assert report.entries[0].name == BUNDLE and report.entries[0].ratio == 1.0


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
    with pytest.raises(MissingExtraError, match=r"microforge\[baselines\]"):
        export_baseline("bk-sdm-tiny", (64, 64), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(not HAS_DIFFUSERS, reason="needs the extra baselines")
def test_a_miniature_baseline_is_exported_once_and_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_baseline("mini", (64, 64), tmp_path, MINI)
    image = BaselineSampler(folder, steps=2, threads=1)()
    assert getattr(image, "shape", None) == (1, 3, 64, 64)
    monkeypatch.setattr(baseline_models, "_export", lambda *_: pytest.fail("exported again"))
    assert export_baseline("mini", (64, 64), tmp_path, MINI) == folder
    peak = baseline_peak(folder, 2, 1)
    assert peak is not None and peak > 2**20
