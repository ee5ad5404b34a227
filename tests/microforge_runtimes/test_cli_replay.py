"""Images that tell how they were made: generated again byte for byte, in batches, private, marked and signed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge.bundle.files import load_bundle
from microforge.bundle.pack import pack_bundle
from microforge.io.console import exit_code
from microforge_runtimes.cli import app
from microforge_runtimes.marks.xmp import Marks, read_marks
from tests.microforge.io.images import P3, base_mask, base_picture, matrix_profile

Capture = pytest.CaptureFixture[str]


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    base_picture().save(tmp_path / "source.png", icc_profile=matrix_profile(*P3))
    return tmp_path / "source.png"


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    base_mask().save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


REQUESTS = {
    "generate": ("a red circle", "--seed", 7, "--size", "64x96"),
    "threads and steps": ("a red circle", "--threads", 1, "--steps", 2, "--size", "64"),
    "edit": ("a red circle", "--source", "SOURCE"),
    "composite": ("a red circle", "--source", "SOURCE", "--composite", "--seed", 2),
    "masked edit": ("a red circle", "--source", "SOURCE", "--task", "edit", "--mask", "MASK"),
    "inpaint": ("--source", "SOURCE", "--mask", "MASK", "--seed", 3),
    "inpaint with a prompt": ("a \udce9 — ✓ circle", "--source", "SOURCE", "--mask", "MASK"),
    "vary": ("a red circle", "--source", "SOURCE", "--strength", 0.75, "--seed", 5),
    "masked vary": ("--source", "SOURCE", "--task", "vary", "--mask", "MASK"),
    "super-resolve": ("--task", "super-resolve", "--source", "SMALL", "--factor", 4),
}


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_like_generates_the_same_bytes(
    editing_bundle: Path, tmp_path: Path, source: Path, mask: Path, kind: str, ending: str
) -> None:
    base_picture().resize((20, 14)).save(tmp_path / "small.png")
    files = {"SOURCE": source, "MASK": mask, "SMALL": tmp_path / "small.png"}
    words = [files.get(str(word), word) for word in REQUESTS[kind]]
    first, again = tmp_path / f"first.{ending}", tmp_path / f"again.{ending}"
    assert _run(editing_bundle, *words, "--out", first) == 0
    given = [word for pair in itertools.pairwise(words) if pair[0] in ("--source", "--mask") for word in pair]
    assert _run(editing_bundle, "--like", first, *given, "--out", again) == 0
    assert first.read_bytes() == again.read_bytes()
    source_type = read_marks(first.read_bytes()).source_type
    is_edit = "--source" in words
    assert source_type == ("compositeWithTrainedAlgorithmicMedia" if is_edit else "trainedAlgorithmicMedia")


def test_like_takes_other_options_in_place_of_single_settings(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, other = tmp_path / "first.png", tmp_path / "other.png"
    assert _run(distilled_bundle, "a red circle", "--seed", 7, "--out", first) == 0
    assert _run(distilled_bundle, "--like", first, "--seed", 8, "--out", other, "--json") == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["seed"] == 8 and values["prompt"] == "a red circle"
    assert _run(distilled_bundle, "--like", first, "a blue square", "--out", other, "--json", "--force") == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["seed"] == 7 and values["prompt"] == "a blue square"


def test_like_refuses_what_is_not_the_same(
    editing_bundle: Path, guided_bundle: Path, tmp_path: Path, source: Path, mask: Path, capsys: Capture
) -> None:
    first, out = tmp_path / "first.png", tmp_path / "out.png"
    words = ("a red circle", "--source", source, "--mask", mask)
    assert _run(editing_bundle, *words, "--out", first) == 0
    base_picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other.png")
    base_mask().transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "other-mask.png")
    source.with_suffix(".jpg").write_bytes(b"x")
    capsys.readouterr()
    for more, message in (
        ((), "--like: the image was made from a source image; give it again with --source FILE"),
        (("--source", source), "--like: the image was made from a mask; give it again with --mask FILE"),
        (
            ("--source", tmp_path / "other.png", "--mask", mask),
            "--source is not the image that --like was made from",
        ),
        (
            ("--source", source, "--mask", tmp_path / "other-mask.png"),
            "--mask is not the mask that --like was made",
        ),
    ):
        assert _run(editing_bundle, "--like", first, *more, "--out", out) == 2
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1 and not out.exists()
    assert _run(editing_bundle, "a red circle", "--size", "64", "--out", tmp_path / "plain.png") == 0
    capsys.readouterr()
    assert _run(guided_bundle, "--like", tmp_path / "plain.png", "--size", "32", "--out", out) == 2
    assert (
        f"--like: the image was generated with the bundle {load_bundle(editing_bundle).id}"
        in capsys.readouterr().err
    )
    assert _run(editing_bundle, "--like", source, "--out", out) == 2
    assert "holds no settings" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_private_leaves_every_setting_out_and_the_mark_in(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture, ending: str
) -> None:
    out = tmp_path / f"image.{ending}"
    assert _run(distilled_bundle, "a very secret circle", "--seed", 987654321, "--out", out, "--private") == 0
    data = out.read_bytes()
    assert read_marks(data) == Marks("trainedAlgorithmicMedia", tool=read_marks(data).tool)
    for secret in (b"secret", b"987654321", load_bundle(distilled_bundle).id.encode()):
        assert secret not in data
    assert _run(distilled_bundle, "--like", out, "--out", tmp_path / "again.png") == 2
    assert "holds no settings" in capsys.readouterr().err


def test_a_batch_is_numbered_with_consecutive_seeds_and_a_sheet(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    prompts = ("a red circle", "a blue square")
    assert (
        _run(distilled_bundle, *prompts, "--count", 3, "--seed", 5, "--out", tmp_path / "x.png", "--json")
        == 0
    )
    printed = capsys.readouterr()
    values = json.loads(printed.out.splitlines()[-1])
    assert [(item["prompt"], item["seed"]) for item in values["images"]] == [
        (prompt, seed) for prompt in prompts for seed in (5, 6, 7)
    ]
    names = [f"x-000{number}.png" for number in range(1, 7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "x-sheet.png"]
    assert [Path(item["image"]).name for item in values["images"]] == names and "6/6" in printed.err
    with Image.open(tmp_path / "x-sheet.png") as sheet:
        assert sheet.width > 2 * 96 and sheet.height > 2 * 64
    sheet_marks = read_marks((tmp_path / "x-sheet.png").read_bytes())
    assert sheet_marks.source_type == "trainedAlgorithmicMedia" and sheet_marks.settings is None
    for number, seed in ((2, 6), (5, 6)):
        single = tmp_path / "single.png"
        assert _run(distilled_bundle, prompts[number // 4], "--seed", seed, "--out", single, "--force") == 0
        assert single.read_bytes() == (tmp_path / f"x-000{number}.png").read_bytes()
    assert _run(distilled_bundle, *prompts, "--out", tmp_path / "x.png") == 2, "nothing is replaced"


def test_an_archive_generates_the_same_bytes_as_its_folder(distilled_bundle: Path, tmp_path: Path) -> None:
    pack_bundle(distilled_bundle, tmp_path / "m.mfb.zip")
    for model, name in ((distilled_bundle, "a.png"), (tmp_path / "m.mfb.zip", "b.png")):
        assert _run(model, "a red circle", "--out", tmp_path / name) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_transparent_source_cannot_become_a_jpeg(
    editing_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    base_picture().convert("RGBA").save(tmp_path / "icon.png")
    words = (editing_bundle, "a red circle", "--source", tmp_path / "icon.png", "--out", tmp_path / "out.jpg")
    assert _run(*words) == 2 and "--source is transparent, which JPEG cannot hold" in capsys.readouterr().err


def test_words_without_quotes_are_hinted_at(distilled_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    assert _run(distilled_bundle, "a", "red", "circle", "--out", tmp_path / "x.png") == 0
    assert "3 prompts of one word each; put a prompt of several words in quotes" in capsys.readouterr().err


def test_the_profile_of_a_source_is_in_its_edit(
    editing_bundle: Path, tmp_path: Path, source: Path, mask: Path
) -> None:
    out = tmp_path / "out.webp"
    assert _run(editing_bundle, "--source", source, "--mask", mask, "--out", out) == 0
    with Image.open(out) as image, Image.open(source) as before:
        assert image.info["icc_profile"] == before.info["icc_profile"]
        outside = np.asarray(base_mask()) == 0
        np.testing.assert_array_equal(np.asarray(image)[outside], np.asarray(before)[outside])


def test_a_signed_edit_names_its_source(
    editing_bundle: Path, tmp_path: Path, source: Path, capsys: Capture
) -> None:
    pytest.importorskip("c2pa", reason="needs the extra c2pa")
    from microforge_runtimes.marks.c2pa_signature import read_provenance
    from tests.microforge_runtimes.marks.test_c2pa_signature import _chain

    chain = _chain(tmp_path)
    base_picture().save(tmp_path / "source.bmp")
    keys = ("--c2pa-certificate", chain.certificates, "--c2pa-key", chain.key)
    for image in (source, tmp_path / "source.bmp"):
        out = tmp_path / f"{image.suffix[1:]}.jpg"
        assert _run(editing_bundle, "a red circle", "--source", image, "--out", out, *keys) == 0
        found = read_provenance(out.read_bytes(), chain.root)
        assert found is not None and found.state == "Trusted" and len(found.manifest["ingredients"]) == 1
    capsys.readouterr()
    words = (
        editing_bundle,
        "a",
        "--size",
        "64",
        "--out",
        tmp_path / "y.png",
        *keys[:3],
        tmp_path / "none.pem",
    )
    assert _run(*words) == 2 and "none.pem cannot be read" in capsys.readouterr().err


def test_a_closed_stdout_is_no_error(distilled_bundle: Path, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m microforge_runtimes.cli "{distilled_bundle}" "a circle" --out "{tmp_path}/x.png" >&-'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr and (tmp_path / "x.png").is_file()


def test_preview_writes_a_marked_image_per_step(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    words = (distilled_bundle, "a red circle", "--out", tmp_path / "x.png", "--preview")
    assert _run(*words) == 0
    names = [f"x-step{step}.png" for step in (1, 2, 3, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "x.png"]
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.size == (96, 64)
        assert read_marks((tmp_path / name).read_bytes()).source_type == "trainedAlgorithmicMedia"
    (tmp_path / "x.png").unlink()
    capsys.readouterr()
    assert _run(*words) == 2 and "x-step1.png already exists" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_strength_belongs_to_vary(
    editing_bundle: Path, tmp_path: Path, source: Path, capsys: Capture
) -> None:
    words = (editing_bundle, "a", "--source", source, "--task", "edit", "--strength", 0.5)
    assert _run(*words, "--out", tmp_path / "x.png") == 2
    assert "--strength belongs to --task vary, not to edit" in capsys.readouterr().err
