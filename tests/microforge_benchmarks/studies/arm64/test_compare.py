"""Comparison of Arm with x86-64: metrics, commands, refusals, and the results that are checked in. No emulator."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microforge.bundle.files import load_bundle
from microforge.errors import BundleError, MissingExtraError, OutputError, ParityError, PromptError
from microforge.io.console import exit_code
from microforge_benchmarks.studies.arm64 import emulation
from microforge_benchmarks.studies.arm64.cli import app, arm64_table, decibels
from microforge_benchmarks.studies.arm64.compare import (
    MIN_IMAGE_DB,
    Arm64Report,
    float_steps,
    psnr_db,
    sample_difference,
)
from microforge_benchmarks.studies.arm64.emulation import (
    MARKER,
    apt_command,
    check_tools,
    emulated,
    make_root,
    native,
    root_python,
    run_tool,
    runtime_requirements,
    wheel_options,
)
from microforge_benchmarks.studies.arm64.run import SampleSettings, comparison, sample_on
from microforge_benchmarks.studies.arm64.traced_sample import (
    EngineVersions,
    TracedSample,
    load_sample,
    save_sample,
)

ROOT = Path(__file__).parents[4]
RESULT = ROOT / "benchmarks" / "results" / "arm64.json"


@pytest.fixture
def sample() -> TracedSample:
    """A sample of 4 x 4 px in middle grey."""
    noise = np.array([0.5, -0.5, 1.0, 0.0], np.float32).reshape(1, 1, 2, 2)
    return TracedSample(
        EngineVersions("x86_64", "3.11.0", "2.0.0", "1.24.4"), np.arange(8, dtype=np.uint32).reshape(2, 4), noise,
        noise * 2, np.full((1, 3, 4, 4), 0.5, np.float32), np.full((4, 4, 3), 128, np.uint8),
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the files that identify its Python."""
    folder = tmp_path / "work" / "root"
    (folder / "usr" / "bin").mkdir(parents=True)
    for name in ("python3", "python3.11", "python3.11-config"):
        (folder / "usr" / "bin" / name).touch()
    (folder / MARKER).touch()
    return folder


def test_equal_samples_have_no_difference(sample: TracedSample) -> None:
    difference = sample_difference(sample, sample)
    assert (difference.latent_db, difference.image_db, difference.pixels_max, difference.noise_ulp) == (
        None,
        None,
        0,
        0,
    )
    assert difference.words_equal and difference.passes(1000.0)


def test_the_image_level_is_over_the_range_of_one_and_decides(sample: TracedSample) -> None:
    pixels = sample.pixels.copy()
    pixels[0, 0] = (129, 126, 128)
    difference = sample_difference(
        replace(sample, image=sample.image + np.float32(0.001), pixels=pixels), sample
    )
    assert difference.image_db == pytest.approx(60.0, abs=0.01)
    assert (difference.pixels_max, difference.pixels_changed) == (2, round(2 / 48, 6))
    assert difference.passes(59.9) and not difference.passes(60.1)


def test_the_latent_level_is_over_the_largest_value_of_the_reference(sample: TracedSample) -> None:
    assert sample_difference(
        replace(sample, z=sample.z + np.float32(0.02)), sample
    ).latent_db == pytest.approx(40.0, abs=0.01)


def test_noise_may_differ_by_one_float_step_and_words_may_not(sample: TracedSample) -> None:
    nearby = np.nextafter(sample.noise, np.float32(9.0))
    assert sample_difference(replace(sample, noise=nearby), sample).passes(60.0)
    assert not sample_difference(replace(sample, noise=np.nextafter(nearby, np.float32(9.0))), sample).passes(
        60.0
    )
    assert not sample_difference(replace(sample, words=sample.words + np.uint32(1)), sample).passes(60.0)


def test_float_steps_count_across_zero() -> None:
    tiny = np.array([np.nextafter(np.float32(0), np.float32(1))], np.float32)
    assert float_steps(tiny, -tiny) == 2
    assert float_steps(np.array([-0.0], np.float32), np.array([0.0], np.float32)) == 0


def test_a_broken_sample_is_a_failed_check(sample: TracedSample) -> None:
    with pytest.raises(ParityError, match="z has values that are not finite on x86_64"):
        sample_difference(replace(sample, z=sample.z * np.float32("nan")), sample)
    with pytest.raises(ParityError, match="image has shape"):
        sample_difference(replace(sample, image=sample.image[:, :, :2]), sample)


def test_psnr_is_none_only_for_equal_values() -> None:
    values = np.zeros(3, np.float32)
    assert psnr_db(values, values, 1.0) is None
    assert psnr_db(values + np.float32(0.1), values, 1.0) == pytest.approx(20.0, abs=0.01)
    assert (decibels(None), decibels(20.04)) == ("equal", "20.0")


def test_a_sample_survives_its_file(sample: TracedSample, tmp_path: Path) -> None:
    save_sample(sample, tmp_path / "sample.npz")
    loaded = load_sample(tmp_path / "sample.npz")
    assert loaded.engine == sample.engine and sample_difference(loaded, sample) == sample_difference(
        sample, sample
    )


def test_a_process_generates_the_same_image_twice(bundle: Path) -> None:
    opened, settings = load_bundle(bundle), SampleSettings("a red circle", 3, 60.0)
    settings.check(opened)
    first, second = (sample_on(native(), opened, settings) for _ in range(2))
    result = comparison(opened, settings, first, second)
    assert result.passed and result.difference.image_db is None
    assert result.bundle == opened.id and first.pixels.shape == (*result.size, 3)
    report = Arm64Report(1, "none", "none", (result,))
    assert report.passed and arm64_table(report).row_count == 1


def test_a_process_that_dies_is_one_line(bundle: Path) -> None:
    with pytest.raises(BundleError, match="sample on x86-64 ended with exit code 1: seed is -1"):
        sample_on(native(), load_bundle(bundle), SampleSettings("a red circle", -1, 60.0))


def test_settings_are_checked_before_anything_is_fetched(bundle: Path) -> None:
    with pytest.raises(PromptError):
        SampleSettings(" ", 0, 1.0).check(load_bundle(bundle))


def test_the_emulated_command_has_an_environment_of_its_own(root: Path, tmp_path: Path) -> None:
    words = emulated(root, tmp_path / "site").module("some.module", "a b")
    assert words[:2] == ("env", "-i")
    assert f"PYTHONPATH={tmp_path / 'site'}:{ROOT}:{ROOT / 'runtimes'}:{ROOT / 'benchmarks'}" in words
    python = str(root / "usr" / "bin" / "python3.11")
    assert Path(words[-9]).name == "qemu-aarch64-static" and words[-8:] == (
        "-cpu",
        "cortex-a76",
        "-L",
        str(root),
        python,
        "-m",
        "some.module",
        "a b",
    )
    assert native().module("m") == (sys.executable, "-m", "m")
    assert native(tmp_path).command[0] == "env" and native(tmp_path).command[1].startswith(
        f"PYTHONPATH={tmp_path}:"
    )


def test_a_root_that_is_there_is_not_fetched_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "run_tool", lambda words: pytest.fail(f"ran {words}"))
    assert make_root(root.parent) == root
    (root / "usr" / "bin" / "python3.11").unlink()
    with pytest.raises(OutputError, match=r"no Python in usr/bin; delete the folder"):
        root_python(root)


def test_apt_downloads_for_arm_and_installs_nothing(tmp_path: Path) -> None:
    words = apt_command(tmp_path, "install", "python3")
    assert words[-4:] == ("--yes", "--download-only", "install", "python3")
    assert "APT::Architecture=arm64" in words and f"Dir::State::status={tmp_path}/status" in words
    assert apt_command(tmp_path, "update")[-1] == "update"


def test_wheels_are_the_runtime_core_for_arm() -> None:
    needed = runtime_requirements("1.24.4")
    names = {line.split(">")[0].split("<")[0].split("=")[0] for line in needed}
    assert names == {"numpy", "packaging", "pillow", "pydantic", "rich", "tokenizers", "typer", "onnxruntime"}
    assert needed[-1] == "onnxruntime==1.24.4"
    words = wheel_options("3.11")
    assert words[-2:] == ("--python-version", "3.11") and "manylinux_2_28_aarch64" in words


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        MissingExtraError, match=r"qemu-aarch64-static is not on PATH.*apt install qemu-user-static"
    ):
        check_tools()


def test_a_tool_that_fails_reports_its_own_error() -> None:
    code = "import sys; print('E: no such package', file=sys.stderr); print('done'); sys.exit(7)"
    with pytest.raises(OutputError, match=r"failed with exit code 7: E: no such package$"):
        run_tool((sys.executable, "-c", code))


def test_bad_input_is_two_and_leaves_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    taken, out = tmp_path / "taken.json", tmp_path / "new.json"
    taken.touch()
    for words in (
        [str(bundle), "--out", str(taken)],  # nothing is replaced without --force
        [str(tmp_path / "none.mfb"), "--out", str(out)],
        [str(bundle), "--out", str(out), "--seed", "-1"],
        [str(bundle), "--out", str(out), "--work", str(tmp_path / "work")],  # no QEMU
        ["--out", str(out)],
    ):
        assert exit_code(app, words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.json"]


def test_checked_in_results_passed_and_the_page_quotes_them() -> None:
    comparisons = json.loads(RESULT.read_text("utf-8"))["comparisons"]
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert {item["tested_engine"]["architecture"] for item in comparisons} == {"aarch64", "x86_64"}
    for item in comparisons:
        assert item["passed"] and item["least_db"] == MIN_IMAGE_DB[item["precision"]]
        difference, engine = item["difference"], item["tested_engine"]
        assert difference["image_db"] is None or difference["image_db"] >= item["least_db"]
        assert (
            f"| {item['model']} {item['precision']} | {engine['architecture']} {engine['onnxruntime']} "
            f"| {decibels(difference['latent_db'])} | {decibels(difference['image_db'])} "
            f"| {difference['pixels_max']} |"
        ) in page
