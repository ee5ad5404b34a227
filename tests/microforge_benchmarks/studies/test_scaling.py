"""Power laws and crossovers with known values, and the command on the miniature bundle."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import get_args

import pytest

from microforge.bundle.files import load_bundle
from microforge.errors import BundleError, SpecError
from microforge.io.console import exit_code
from microforge_benchmarks.measure.random_bundles import RECIPE, SSMForm, scaling_spec
from microforge_benchmarks.studies import scaling
from microforge_benchmarks.studies.scaling import (
    ScalingPlan,
    ScalingPoint,
    ScalingReport,
    crossover,
    exponent,
    scaling_report,
    tokens_side,
)
from microforge_benchmarks.studies.scaling_cli import app, counts
from microforge_benchmarks.studies.scaling_view import scaling_plot, scaling_table
from microforge_export.recipes.recipe_file import parse_recipe

TOKENS = (16, 64, 256, 1024)


def test_the_exponent_of_a_power_law_is_recovered() -> None:
    assert exponent(TOKENS, [3e-3 * n**1.25 for n in TOKENS]) == pytest.approx(1.25)
    assert exponent([64], [1.0]) is None


def test_the_crossover_lies_where_two_power_laws_meet() -> None:
    linear, square = [float(n) for n in TOKENS], [n**2 / 100 for n in TOKENS]  # equal at 100
    assert crossover(TOKENS, square, linear) == pytest.approx(100)
    assert crossover(TOKENS, linear, [2.0 * value for value in linear]) is None
    assert crossover(TOKENS, [2.0 * value for value in linear], linear) == 16


def test_tokens_must_make_a_square_image() -> None:
    assert tokens_side(256) == 512
    with pytest.raises(SpecError, match="square number"):
        tokens_side(500)


def test_both_forms_are_chosen_whatever_the_size() -> None:
    assert scaling_spec("nano", "dense").backbone.dense_limit > 10**6
    assert scaling_spec("nano", "chunked").backbone.dense_limit == 0
    assert scaling_spec("nano", "preset").sampler.guidance_distilled


def _point(form: SSMForm, tokens: int, step: float, peak: int | None = 10**8) -> ScalingPoint:
    return ScalingPoint(
        form=form, side=math.isqrt(tokens) * 32, tokens=tokens, image=1.0, denoiser_step=step, decoder=0.1, peak_rss=peak,
        denoiser_rss=peak,
    )  # fmt: skip


def test_a_report_compares_the_forms_and_can_be_plotted(tmp_path: Path) -> None:
    points = [_point("dense", n, n**2 / 100) for n in TOKENS] + [_point("chunked", n, n) for n in TOKENS]
    report = scaling_report(ScalingPlan("nano", (), TOKENS, tmp_path), points)
    assert report.exponents["dense"].denoiser_step == pytest.approx(2)
    assert report.crossover_tokens == pytest.approx(100)
    assert ScalingReport.model_validate_json(report.model_dump_json()) == report
    assert scaling_plot(report).startswith(b"\x89PNG") and scaling_table(report).row_count == len(points)


def test_the_checked_in_result_is_a_report() -> None:
    result = Path(__file__).parents[3] / "benchmarks" / "results" / "scaling.json"
    report = ScalingReport.model_validate_json(result.read_text("utf-8"))
    assert {point.form for point in report.points} == {"preset", "dense", "chunked", "linear"}


def test_the_int8_recipe_of_random_bundles_is_valid() -> None:
    recipe = parse_recipe(RECIPE.format(model="tiny"))
    assert recipe.model == "tiny" and recipe.target == "onnx"


@pytest.mark.parametrize(
    "words",
    [["--sizes", "128,large"], ["--sizes", "100"], ["--sizes", "", "--tokens", ""], ["--tokens", "500"],
     ["--config", "huge"], ["--precision", "int4"]],
)  # fmt: skip
def test_bad_words_are_refused_before_anything_is_built(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert exit_code(app, ["--out", str(tmp_path / "out"), "--cache", str(cache), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not cache.exists()


def test_counts_come_back_rising_and_once() -> None:
    assert counts("256, 64,256", "--tokens") == (64, 256) and counts("", "--tokens") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_command_writes_points_and_their_plot(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "random_bundle", lambda *_: load_bundle(bundle))
    out = tmp_path / "out"
    assert exit_code(app, ["--out", str(out), "--sizes", "64", "--runs", "1", "--cache", str(tmp_path)]) == 0
    values = json.loads((out / "scaling.json").read_text())
    assert values["points"][0]["tokens"] == 6 and values["points"][0]["denoiser_rss"] > 0
    assert (out / "scaling.png").is_file()


def test_a_size_that_cannot_be_built_costs_no_other_point(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(config: str, form: SSMForm, side: int, *rest: object) -> object:
        if form == "dense":
            raise BundleError("mf-export cannot build it: killed")
        return load_bundle(bundle)

    monkeypatch.setattr(scaling, "random_bundle", build)
    monkeypatch.setattr(scaling, "measure_point", lambda opened, form, plan: _point(form, 4, 0.1, None))
    report = scaling.run_scaling(ScalingPlan("nano", (), (4,), tmp_path), lambda _: None)
    assert [point.form for point in report.points] == ["chunked", "linear"]
    assert report.left_out == ("dense at 64 px: mf-export cannot build it: killed",)
    assert report.crossover_tokens is None
    monkeypatch.setattr(scaling, "random_bundle", lambda *_: build("nano", "dense", 64))
    with pytest.raises(BundleError, match="no size could be measured"):
        scaling.run_scaling(ScalingPlan("nano", (), (4,), tmp_path), lambda _: None)


def test_only_the_linear_form_lacks_the_shared_attention() -> None:
    shares = {form: scaling_spec("nano", form).backbone.use_shared_attention for form in get_args(SSMForm)}
    assert shares == {"preset": True, "dense": True, "chunked": True, "linear": False}
