"""Arm beside x86-64: the comparison, the commands, the mistakes, and the figures that are checked in. No emulator."""

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
    LEAST_IMAGE_DB,
    Report,
    compare,
    float_steps,
    psnr_db,
)
from microforge_benchmarks.studies.arm64.draw import Drawing, Engine, load, save
from microforge_benchmarks.studies.arm64.emulation import (
    MARKER,
    apt_words,
    check_tools,
    emulated,
    foreign_python,
    make_root,
    native,
    run_tool,
    runtime_requirements,
    wheel_words,
)
from microforge_benchmarks.studies.arm64.run import Wish, comparison, drawn_by

ROOT = Path(__file__).parents[4]
RESULT = ROOT / "benchmarks" / "results" / "arm64.json"


@pytest.fixture
def drawing() -> Drawing:
    """A drawing of 4 x 4 px in mid grey."""
    noise = np.array([0.5, -0.5, 1.0, 0.0], np.float32).reshape(1, 1, 2, 2)
    return Drawing(
        Engine("x86_64", "3.11.0", "2.0.0", "1.24.4"), np.arange(8, dtype=np.uint32).reshape(2, 4), noise, noise * 2,
        np.full((1, 3, 4, 4), 0.5, np.float32), np.full((4, 4, 3), 128, np.uint8),
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with the files that tell which Python it has."""
    folder = tmp_path / "work" / "root"
    (folder / "usr" / "bin").mkdir(parents=True)
    for name in ("python3", "python3.11", "python3.11-config"):
        (folder / "usr" / "bin" / name).touch()
    (folder / MARKER).touch()
    return folder


def test_equal_drawings_have_no_difference(drawing: Drawing) -> None:
    found = compare(drawing, drawing)
    assert (found.latent_db, found.image_db, found.pixels_max, found.noise_ulp) == (None, None, 0, 0)
    assert found.words_equal and found.passes(1000.0)


def test_the_image_level_is_over_the_range_of_one_and_decides(drawing: Drawing) -> None:
    pixels = drawing.pixels.copy()
    pixels[0, 0] = (129, 126, 128)
    found = compare(replace(drawing, image=drawing.image + np.float32(0.001), pixels=pixels), drawing)
    assert found.image_db == pytest.approx(60.0, abs=0.01)
    assert (found.pixels_max, found.pixels_changed) == (2, round(2 / 48, 6))
    assert found.passes(59.9) and not found.passes(60.1)


def test_the_latent_level_is_over_the_largest_value_of_the_reference(drawing: Drawing) -> None:
    assert compare(replace(drawing, z=drawing.z + np.float32(0.02)), drawing).latent_db == pytest.approx(
        40.0, abs=0.01
    )


def test_noise_may_be_one_float_off_and_words_none(drawing: Drawing) -> None:
    nearby = np.nextafter(drawing.noise, np.float32(9.0))
    assert compare(replace(drawing, noise=nearby), drawing).passes(60.0)
    assert not compare(replace(drawing, noise=np.nextafter(nearby, np.float32(9.0))), drawing).passes(60.0)
    assert not compare(replace(drawing, words=drawing.words + np.uint32(1)), drawing).passes(60.0)


def test_float_steps_count_across_zero() -> None:
    tiny = np.array([np.nextafter(np.float32(0), np.float32(1))], np.float32)
    assert float_steps(tiny, -tiny) == 2
    assert float_steps(np.array([-0.0], np.float32), np.array([0.0], np.float32)) == 0


def test_a_broken_drawing_is_a_failed_check(drawing: Drawing) -> None:
    with pytest.raises(ParityError, match="z has values that are not finite on x86_64"):
        compare(replace(drawing, z=drawing.z * np.float32("nan")), drawing)
    with pytest.raises(ParityError, match="image has shape"):
        compare(replace(drawing, image=drawing.image[:, :, :2]), drawing)


def test_psnr_is_none_only_for_equal_values() -> None:
    values = np.zeros(3, np.float32)
    assert psnr_db(values, values, 1.0) is None
    assert psnr_db(values + np.float32(0.1), values, 1.0) == pytest.approx(20.0, abs=0.01)
    assert (decibels(None), decibels(20.04)) == ("equal", "20.0")


def test_a_drawing_survives_its_file(drawing: Drawing, tmp_path: Path) -> None:
    save(drawing, tmp_path / "drawing.npz")
    found = load(tmp_path / "drawing.npz")
    assert found.engine == drawing.engine and compare(found, drawing) == compare(drawing, drawing)


def test_a_process_draws_the_same_image_twice(bundle: Path) -> None:
    opened, wish = load_bundle(bundle), Wish("a red circle", 3, 60.0)
    wish.check(opened)
    first, second = (drawn_by(native(), opened, wish) for _ in range(2))
    found = comparison(opened, wish, first, second)
    assert found.passed and found.difference.image_db is None
    assert found.bundle == opened.id and first.pixels.shape == (*found.size, 3)
    report = Report(1, "none", "none", (found,))
    assert report.passed and arm64_table(report).row_count == 1


def test_a_process_that_dies_is_one_line(bundle: Path) -> None:
    with pytest.raises(BundleError, match="drawing on x86-64 ended with exit code 1: seed is -1"):
        drawn_by(native(), load_bundle(bundle), Wish("a red circle", -1, 60.0))


def test_a_wish_is_checked_before_anything_is_fetched(bundle: Path) -> None:
    with pytest.raises(PromptError):
        Wish(" ", 0, 1.0).check(load_bundle(bundle))


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
    assert native(tmp_path).words[0] == "env" and native(tmp_path).words[1].startswith(
        f"PYTHONPATH={tmp_path}:"
    )


def test_a_root_that_is_there_is_not_fetched_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "run_tool", lambda words: pytest.fail(f"ran {words}"))
    assert make_root(root.parent) == root
    (root / "usr" / "bin" / "python3.11").unlink()
    with pytest.raises(OutputError, match=r"no Python in usr/bin; delete the folder"):
        foreign_python(root)


def test_apt_downloads_for_arm_and_installs_nothing(tmp_path: Path) -> None:
    words = apt_words(tmp_path, "install", "python3")
    assert words[-4:] == ("--yes", "--download-only", "install", "python3")
    assert "APT::Architecture=arm64" in words and f"Dir::State::status={tmp_path}/status" in words
    assert apt_words(tmp_path, "update")[-1] == "update"


def test_wheels_are_the_runtime_core_for_arm() -> None:
    needed = runtime_requirements("1.24.4")
    names = {line.split(">")[0].split("<")[0].split("=")[0] for line in needed}
    assert names == {"numpy", "pillow", "pydantic", "rich", "tokenizers", "typer", "onnxruntime"}
    assert needed[-1] == "onnxruntime==1.24.4"
    words = wheel_words("3.11")
    assert words[-2:] == ("--python-version", "3.11") and "manylinux_2_28_aarch64" in words


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        MissingExtraError, match=r"qemu-aarch64-static is not on PATH.*apt install qemu-user-static"
    ):
        check_tools()


def test_a_tool_that_fails_says_its_own_error() -> None:
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
        [str(bundle), "--out", str(taken)],  # never overwritten unasked
        [str(tmp_path / "none.mfb"), "--out", str(out)],
        [str(bundle), "--out", str(out), "--seed", "-1"],
        [str(bundle), "--out", str(out), "--work", str(tmp_path / "work")],  # no QEMU
        ["--out", str(out)],
    ):
        assert exit_code(app, words) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.json"]


def test_checked_in_figures_passed_and_the_page_quotes_them() -> None:
    found = json.loads(RESULT.read_text("utf-8"))
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert {item["subject"]["architecture"] for item in found["comparisons"]} == {"aarch64", "x86_64"}
    for item in found["comparisons"]:
        assert item["passed"] and item["least_db"] == LEAST_IMAGE_DB[item["precision"]]
        difference = item["difference"]
        assert difference["image_db"] is None or difference["image_db"] >= item["least_db"]
        subject = item["subject"]
        assert (
            f"| {item['model']} {item['precision']} | {subject['architecture']} {subject['onnxruntime']} "
            f"| {decibels(difference['latent_db'])} | {decibels(difference['image_db'])} "
            f"| {difference['pixels_max']} |"
        ) in page
