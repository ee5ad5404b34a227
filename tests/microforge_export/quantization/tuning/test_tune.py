"""Tuning: the choice follows the measurements, and what it writes is a recipe that meets its limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch.export import ExportedProgram

from microforge.bundle import measurements
from microforge.bundle.manifest import Role
from microforge.errors import ParityError, SpecError
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.onnx import OnnxQuantizable
from microforge_export.quantization.quality import shortfalls
from microforge_export.quantization.tuning import tune as tuning
from microforge_export.quantization.tuning.choice import (
    TuningSettings,
    best_of_component,
    choose,
    costliest,
    mark_chosen,
)
from microforge_export.quantization.tuning.command import TuneRequest, run_tune, tune_request
from microforge_export.quantization.tuning.timing import Times, interleaved, read_measured, this_host
from microforge_export.quantization.tuning.tune import tune
from microforge_export.quantization.tuning.view import tune_table, tune_values
from microforge_export.recipes.int8_recipe import (
    Calibration,
    CandidateScheme,
    Int8Limits,
    MeasuredCandidate,
    Scheme,
)
from microforge_export.recipes.recipe_file import parse_recipe


def candidate(
    scheme: CandidateScheme, psnr_db: float, milliseconds: float, group: str = "conv a", size: int = 10
) -> MeasuredCandidate:
    return MeasuredCandidate(
        component="vae_decoder", group=group, scheme=scheme, psnr_db=psnr_db, milliseconds=milliseconds,
        fp32_milliseconds=2.0, bytes=size, fp32_bytes=40,
    )  # fmt: skip


def settings(least: float = 20.0, prefer: str = "speed") -> TuningSettings:
    return TuningSettings(
        prefer="size" if prefer == "size" else "speed", limits=Int8Limits(component_psnr_db=least)
    )


@pytest.fixture(autouse=True)
def lowered_once(
    programs: dict[str, ExportedProgram],
    quantizables: dict[str, OnnxQuantizable],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tuning runs take the session's traces and graphs."""
    monkeypatch.setattr(tuning, "trace", lambda item: programs[item.key])
    monkeypatch.setattr(
        tuning, "quantizable_factory", lambda _: lambda component, *_: quantizables[component.key]
    )


def test_choose_takes_the_fastest_that_is_precise_enough() -> None:
    candidates = [
        candidate("weight-only", 50.0, 1.9),
        candidate("static", 30.0, 0.5),
        candidate("dynamic", 5.0, 0.1),
    ]
    assert choose(["conv a", "conv b"], candidates, settings(), "fp32") == {
        "conv a": "static",
        "conv b": "fp32",
    }
    assert choose(["conv a"], candidates, settings(40.0), "fp32") == {"conv a": "weight-only"}
    assert choose(["conv a"], candidates, settings(60.0), "fp32") == {"conv a": "fp32"}


def test_choose_keeps_a_group_in_fp32_when_int8_is_slower_unless_size_counts() -> None:
    candidates = [candidate("weight-only", 50.0, 2.1)]
    assert choose(["conv a", "conv b"], candidates, settings(), "fp32")["conv a"] == "fp32"
    assert (
        choose(["conv a", "conv b"], candidates, settings(prefer="size"), "fp32")["conv a"] == "weight-only"
    )


def test_a_component_falls_back_to_fp32_if_its_mixture_is_slower() -> None:
    mixed: dict[str, Scheme] = {"conv a": "static", "conv b": "weight-only"}
    groups: dict[str, tuple[Scheme, ...]] = dict.fromkeys(mixed, ("weight-only", "static"))
    candidates = [
        candidate("mixed", 40.0, 2.2, "all"),
        candidate("static", 10.0, 0.5, "all"),
        candidate("weight-only", 50.0, 2.3, "all"),
    ]
    assert set(best_of_component(candidates, mixed, groups, settings(), "onnx").values()) == {"fp32"}
    assert best_of_component(candidates, mixed, groups, settings(prefer="size"), "onnx") == mixed
    faster = [candidate("mixed", 40.0, 1.5, "all"), candidate("static", 30.0, 1.0, "all")]
    assert set(best_of_component(faster, mixed, groups, settings(), "onnx").values()) == {"static"}
    smaller = [candidate("mixed", 40.0, 1.5, "all", 20), candidate("weight-only", 50.0, 2.3, "all", 10)]
    assert set(best_of_component(smaller, mixed, groups, settings(prefer="size"), "onnx").values()) == {
        "weight-only"
    }


def test_mark_chosen_marks_the_candidates_that_the_recipe_uses() -> None:
    mixed: dict[str, Scheme] = {"conv a": "static", "conv b": "weight-only"}
    assert mark_chosen(candidate("static", 30.0, 1.0), mixed, "onnx").chosen
    assert mark_chosen(candidate("mixed", 30.0, 1.0, "all"), mixed, "onnx").chosen
    assert not mark_chosen(candidate("static", 30.0, 1.0, "all"), mixed, "onnx").chosen
    assert not mark_chosen(candidate("mixed", 30.0, 1.0, "all"), dict.fromkeys(mixed, "fp32"), "onnx").chosen


def test_interleaved_takes_turns_and_leaves_out_the_first_round() -> None:
    order: list[str] = []
    times = interleaved([lambda: order.append("a"), lambda: order.append("b")], 3)
    assert order == ["a", "b"] * 4 and len(times) == 2 and min(times) >= 0.0


def test_host_names_the_extensions_that_int8_uses(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 sse avx512_vnni\n", "utf-8")
    assert this_host(2, tmp_path / "cpuinfo").instructions == ("avx2", "avx512_vnni")
    assert this_host(2, tmp_path / "absent").instructions == ()


def _measured_row(*schemes: str) -> str:
    environment = measurements.Environment(
        device="a phone", system="Android 14", processor="", cores=8, runtime="kotlin", engine="onnxruntime",
        engine_version="1.20",
    )  # fmt: skip
    return measurements.Row(
        bundle="0123456789ab", model="nano", target="onnx", precision="fp32", height=64, width=96, steps=4, threads=1,
        loading="staged", download=1, created="2026-01-01T00:00:00+00:00", environment=environment,
        candidates=tuple(
            measurements.Candidate(component="denoiser", scheme=name, seconds=0.003, fp32_seconds=0.005) for name in schemes
        ),
    ).model_dump_json()  # fmt: skip


def test_measured_rows_are_read_by_candidate(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(_measured_row("static"), "utf-8")
    assert read_measured(path) == {("denoiser", "all", "static"): (3.0, 5.0)}
    path.write_text(_measured_row("int3"), "utf-8")
    with pytest.raises(SpecError, match="scheme 'int3'"):
        read_measured(path)
    path.write_text(_measured_row(), "utf-8")
    with pytest.raises(SpecError, match="no candidates"):
        read_measured(path)


def test_a_request_for_what_cannot_be_tuned_is_refused() -> None:
    options = {"size": None, "prompts": 1, "rounds": 1, "threads": 1, "measured": None}
    with pytest.raises(SpecError, match="allowed: onnx"):
        tune_request(target="tvm", prefer="speed", note="", **options)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="allowed: speed, size"):
        tune_request(target="onnx", prefer="beauty", note="", **options)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="one line"):
        tune_request(target="onnx", prefer="speed", note="a\nb", **options)  # type: ignore[arg-type]


MEASURED: Times = {
    ("vae_decoder", "conv decoder.stages.1", "static"): (1.0, 2.0),
    ("vae_decoder", "all", "mixed"): (1.0, 2.0),
    ("denoiser", "matmul backbone.blocks.ffn", "dynamic"): (1.0, 2.0),
    ("denoiser", "all", "mixed"): (3.0, 2.0),
}


def test_tune_writes_a_recipe_of_the_candidates_that_a_device_timed(checkpoint: Path, tmp_path: Path) -> None:
    request = TuneRequest(
        target="onnx", prefer="speed", size=None, prompts=1, rounds=1, threads=1, measured=MEASURED, note="a phone",
    )  # fmt: skip
    recipe, quality = run_tune(checkpoint, tmp_path / "mini.toml", request, False, lambda _: None)
    assert parse_recipe((tmp_path / "mini.toml").read_text("utf-8")) == recipe
    assert {(r.component, r.group, r.scheme) for r in recipe.candidates if r.fp32_milliseconds} == set(
        MEASURED
    )
    assert set(recipe.schemes["vae_decoder"].values()) == {"fp32", "static"}
    assert set(recipe.schemes["denoiser"].values()) == {"fp32"}, "as a whole it is slower, says the device"
    assert recipe.limits.images == 1 and recipe.note == "a phone"
    assert shortfalls(quality, recipe.limits) == [] and quality.images[0] < 90
    assert json.dumps(tune_values(recipe, quality)) and tune_table(recipe, quality)


def test_tune_that_starts_from_a_recipe_keeps_its_choice_and_measures_no_candidate(
    checkpoint: Path, tmp_path: Path
) -> None:
    start_recipe = tmp_path / "start_recipe.toml"
    start_recipe.write_text(
        'model = "miniature"\ntarget = "onnx"\n[host]\nmachine = "any"\ninstructions = []\nthreads = 1\n'
        '[schemes.vae_decoder]\n"*" = "weight-only"\n', "utf-8",
    )  # fmt: skip
    options = {
        "prefer": "speed",
        "size": None,
        "prompts": 1,
        "rounds": 1,
        "threads": 1,
        "measured": None,
        "note": "",
    }
    request = tune_request(target="onnx", start=start_recipe, **options)  # type: ignore[arg-type]
    recipe, quality = run_tune(checkpoint, tmp_path / "mini.toml", request, False, lambda _: None)
    assert set(recipe.schemes["vae_decoder"].values()) >= {"weight-only"} and recipe.candidates == ()
    assert set(recipe.schemes["denoiser"].values()) == {"fp32"}
    assert shortfalls(quality, recipe.limits) == []
    with pytest.raises(SpecError, match="is a recipe for onnx, not for executorch"):
        tune_request(target="executorch", start=start_recipe, **options)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="give only one of them"):
        tune_request(target="onnx", start=start_recipe, **{**options, "measured": start_recipe})  # type: ignore[arg-type]


def test_tune_gives_up_if_even_fp32_misses_a_limit(
    source_model: SourceModel, components: tuple[SourceComponent, ...]
) -> None:
    strict = TuningSettings(
        limits=Int8Limits(images=1, image_psnr_worst_db=199.0), calibration=Calibration(samples=1, inputs=2),
        rounds=1, threads=1, measured={("vae_decoder", "conv decoder.stages.1", "static"): (1.0, 2.0)},
    )  # fmt: skip
    with pytest.raises(ParityError, match="not even fp32"):
        tune(source_model, components, "onnx", "miniature", strict)


def test_choose_overrules_the_best_scheme_of_the_component_only_for_a_clear_gain() -> None:
    candidates = [
        candidate("static", 30.0, 0.5, "all"),
        candidate("static", 30.0, 1.9),
        candidate("weight-only", 50.0, 1.8),
    ]
    assert choose(["conv a", "b"], candidates, settings(), "fp32")["conv a"] == "static"
    clear = [*candidates[:2], candidate("weight-only", 50.0, 1.0)]
    assert choose(["conv a", "b"], clear, settings(), "fp32")["conv a"] == "weight-only"


def test_the_costliest_component_is_the_one_that_images_are_better_without() -> None:
    psnr: dict[Role, float] = {"text_encoder": 40.0, "denoiser": 30.0, "vae_decoder": 25.0}
    images: dict[Role, float] = {"text_encoder": 20.0, "denoiser": 33.0, "vae_decoder": 21.0}
    assert costliest(psnr, 20.0, images.__getitem__) == "denoiser"
    assert costliest(psnr, 26.0, images.__getitem__) == "vae_decoder", "it misses its own limit"
    assert costliest({}, 20.0, images.__getitem__) is None
