"""``mf-generate --pack`` and ``--transparent``: whole folders, one line for every mistake."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge.io.console import exit_code
from microforge_runtimes.cli import app
from microforge_runtimes.commands.pack import EnlargingTask, cut_and_enlarge
from microforge_runtimes.open_model import Choice, open_model
from microforge_runtimes.stickers.platforms import PLATFORMS, ImageRules

Capture = pytest.CaptureFixture[str]


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


def test_a_pack_is_written_and_never_overwritten(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "my-shapes"
    words = (distilled_bundle, "a circle", "a cat", "a dog", "--pack", out, "--for", "whatsapp", "--json")
    assert _run(*words) == 0
    assert json.loads(capsys.readouterr().out)["stickers"] == 3
    (entry,) = json.loads((out / "contents.json").read_text("utf-8"))["sticker_packs"]
    assert entry["name"] == "my shapes" and entry["stickers"][1]["emojis"] == ["🐈️"]
    with Image.open(out / entry["identifier"] / entry["stickers"][0]["image_file"]) as image:
        assert image.size == (512, 512) and "trainedAlgorithmicMedia" in str(image.info["xmp"])
    assert _run(*words) == 2 and "already exists" in capsys.readouterr().err


def test_an_object_is_enlarged_by_the_model_as_much_as_its_sticker_needs(editing_bundle: Path) -> None:
    pixels = np.full((64, 64, 3), 255, np.uint8)
    pixels[20:36, 24:44] = (200, 30, 30)
    alpha = np.where((pixels == 255).all(2), 0, 255).astype(np.uint8)
    rules = replace(PLATFORMS["telegram"], sticker=ImageRules(56, "WEBP", 10**6))
    with open_model(editing_bundle, Choice("64")) as editor:
        editor.keep_loaded = True
        for given in (None, alpha):
            result = cut_and_enlarge(editor, pixels, given, EnlargingTask("super-resolve", (2, 4)), rules, "")
            assert result.shape == (2 * (16 + 8), 2 * (20 + 8), 4)  # with 8 % and 2 pixels on each side
            assert result[24, 28, 3] == 255
            assert (
                given is None or result[0, 0, 3] == 0
            )  # the miniature enlarges to noise, which has no background


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pack", "P"), "--pack needs --for PLATFORM: whatsapp, telegram or imessage"),
        (("--pack", "P", "--for", "signal"), "--for is 'signal'; allowed: whatsapp, telegram, imessage"),
        (("--pack", "P", "--for", "whatsapp"), "a pack for whatsapp has 3 to 30 stickers, this one 1"),
        (("--pack", "P", "--for", "telegram", "--out", "a.png"), "--out and --pack exclude each other"),
        (("--for", "telegram", "--out", "a.png"), "--for belongs to --pack FOLDER"),
        (("--pack", "P", "--for", "telegram", "--emoji", "🐈", "--emoji", "🐕"), "--emoji is given 2 times for 1 prompts"),
        ((), "Missing option --out FILE"),
        (("--transparent", "--out", "a.jpg"), "JPEG cannot hold"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    editing_bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert _run(editing_bundle, "a cat", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_transparent_image_has_alpha(editing_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "cat.png"
    assert _run(editing_bundle, "a cat", "--size", 64, "--out", out, "--transparent") == 0
    with Image.open(out) as image:
        assert image.mode == "RGBA"
