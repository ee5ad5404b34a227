"""Packs hold what their platforms publish as limits: the numbers below are the platforms', not the code's."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from microforge.errors import OutputError, SpecError
from microforge_runtimes.images.matte import Pixels
from microforge_runtimes.stickers.layout import lay_out, outlined, visible_box
from microforge_runtimes.stickers.pack import PackSticker, StickerPack, encoded, pack_files, slug
from microforge_runtimes.stickers.platforms import PLATFORMS, ImageRules, check_pack


def _pack(platform: str, noisy: bool = False) -> dict[str, bytes]:
    rules = PLATFORMS[platform]
    side = rules.sticker.side
    stickers = []
    for index, prompt in enumerate(("a red circle", "ein blauer Stern, sehr groß", "一只猫")):
        object_ = np.zeros((64, 64, 4), np.uint8)
        object_[8:56, 16:48] = (40 * index, 90, 200, 255)
        pixels = lay_out(object_, side, rules.margin, rules.outline)
        if noisy and index == 0:
            pixels = pixels.copy()
            pixels[..., :3] = np.random.default_rng(index).integers(0, 256, (side, side, 3))
            pixels[..., 3] = 255
        stickers.append(PackSticker(pixels, prompt, index, ("🔴",), None))
    return pack_files(StickerPack("Meine Bilder", "Me", tuple(stickers)), rules)


def _image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("noisy", [False, True])
def test_a_whatsapp_pack_passes_the_rules_of_the_sample_app(noisy: bool) -> None:
    """github.com/WhatsApp/stickers: StickerPackValidator.java and Android/README.md."""
    files = _pack("whatsapp", noisy)
    (entry,) = json.loads(files["contents.json"])["sticker_packs"]
    assert 0 < len(entry["identifier"]) < 128 and set(entry["identifier"]) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. "
    )
    assert 0 < len(entry["name"]) <= 128 and 0 < len(entry["publisher"]) <= 128
    assert 3 <= len(entry["stickers"]) <= 30
    folder = entry["identifier"]
    for item in entry["stickers"]:
        data = files[f"{folder}/{item['image_file']}"]
        image = _image(data)
        assert image.format == "WEBP" and image.size == (512, 512) and len(data) <= 100 * 1000
        assert 1 <= len(item["emojis"]) <= 3 and len(item["accessibility_text"]) <= 125
        assert not getattr(image, "is_animated", False)
    tray = files[f"{folder}/{entry['tray_image_file']}"]
    assert _image(tray).format == "PNG" and _image(tray).size == (96, 96) and len(tray) <= 50 * 1000
    with zipfile.ZipFile(io.BytesIO(files["meine-bilder.wastickers"])) as archive:
        assert {"title.txt", "author.txt", "tray.png"} < set(archive.namelist())


@pytest.mark.parametrize("noisy", [False, True])
def test_a_telegram_set_passes_the_rules_of_the_bot_api(noisy: bool) -> None:
    """core.telegram.org/stickers and core.telegram.org/bots/api#createnewstickerset."""
    files = _pack("telegram", noisy)
    arguments = json.loads(files["sticker_set.json"])
    assert 1 <= len(arguments["title"]) <= 64 and 1 <= len(arguments["name"]) <= 64
    assert arguments["name"][0].isalpha() and "__" not in arguments["name"]
    assert 1 <= len(arguments["stickers"]) <= 120
    for item in arguments["stickers"]:
        data = files[item["sticker"].removeprefix("attach://")]
        image = _image(data)
        assert image.format in ("PNG", "WEBP") and max(image.size) == 512 and len(data) <= 512 * 1000
        assert item["format"] == "static" and 1 <= len(item["emoji_list"]) <= 20
        assert len(item["keywords"]) <= 20 and sum(map(len, item["keywords"])) <= 64
    thumbnail = files[arguments["thumbnail"].removeprefix("attach://")]
    assert _image(thumbnail).size == (100, 100) and len(thumbnail) <= 128 * 1000


@pytest.mark.parametrize("noisy", [False, True])
def test_an_imessage_catalog_passes_the_rules_of_msstickers(noisy: bool) -> None:
    """developer.apple.com: MSSticker, MSStickerSize.regular, and the Asset Catalog Format Reference."""
    files = _pack("imessage", noisy)
    pack = "Stickers.xcassets/Sticker Pack.stickerpack"
    contents = json.loads(files[f"{pack}/Contents.json"])
    assert contents["properties"]["grid-size"] == "regular" and len(contents["stickers"]) == 3
    for item in contents["stickers"]:
        sticker = json.loads(files[f"{pack}/{item['filename']}/Contents.json"])["properties"]
        data = files[f"{pack}/{item['filename']}/{sticker['filename']}"]
        assert _image(data).format == "PNG" and _image(data).size == (408, 408) and len(data) < 500 * 1000
        assert len(sticker["accessibility-label"]) <= 150
    icons = "Stickers.xcassets/iMessage App Icon.stickersiconset"
    for icon in json.loads(files[f"{icons}/Contents.json"])["images"]:
        width, height = (int(side) for side in icon["size"].split("x"))
        scale = int(icon["scale"].removesuffix("x"))
        image = _image(files[f"{icons}/{icon['filename']}"])
        assert image.size == (width * scale, height * scale) and image.mode == "RGB"


def test_the_same_pack_gives_the_same_bytes() -> None:
    assert _pack("whatsapp") == _pack("whatsapp")


def test_an_image_that_cannot_be_made_small_enough_is_refused() -> None:
    noise: Pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 4), np.uint8)
    with pytest.raises(OutputError, match="at the lowest quality, 500 are allowed"):
        encoded(noise, ImageRules(96, "WEBP", 500))


def test_a_sticker_fills_its_room_and_the_margin_stays_free() -> None:
    object_ = np.zeros((40, 80, 4), np.uint8)
    object_[10:20, 10:70] = (200, 0, 0, 255)
    sticker = lay_out(object_, 512, 16, 8)
    box = visible_box(sticker)
    assert box is not None and abs(box[1].start - 16) <= 1 and abs(box[1].stop - 496) <= 1
    assert (sticker[:15, :, 3] == 0).all()


def test_the_outline_is_white_and_as_wide_as_asked() -> None:
    object_ = np.zeros((64, 64, 4), np.uint8)
    object_[24:40, 24:40] = (0, 0, 0, 255)
    result = outlined(object_, 8)
    assert result[32, 17].tolist() == [255, 255, 255, 255] and result[32, 14, 3] == 0
    assert result[32, 32].tolist() == [0, 0, 0, 255]


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [(2, "Shapes", "3 to 30 stickers, this one 2; give more prompts"), (31, "Shapes", "fewer prompts"), (3, "x" * 129, "--pack-name has 129")],
)  # fmt: skip
def test_a_pack_against_the_rules_is_refused(count: int, name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_pack(PLATFORMS["whatsapp"], count, name, "Me")


def test_names_of_files_are_plain_ascii() -> None:
    assert slug("Ein großer Hund!") == "ein-groer-hund" and slug("一只猫") == "sticker"
