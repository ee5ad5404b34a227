"""The asset catalog of an iMessage sticker pack, as Xcode reads it. No torch.

Source: Apple's Asset Catalog Format Reference, types Sticker Pack, Sticker and Messages Extension Icon.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from microforge_runtimes.images.matte import Pixels
from microforge_runtimes.marks.image_encoding import encode_image
from microforge_runtimes.stickers.platforms import PlatformRules

_INFO = {"author": "xcode", "version": 1}
_CATALOG = "Stickers.xcassets"
#: Width and height in points, scale, idiom and platform of every icon that Xcode asks for.
_ICONS: tuple[tuple[int, int, int, str, str | None], ...] = (
    (29, 29, 2, "iphone", None), (29, 29, 3, "iphone", None), (60, 45, 2, "iphone", None), (60, 45, 3, "iphone", None),
    (29, 29, 2, "ipad", None), (67, 50, 2, "ipad", None), (74, 55, 2, "ipad", None),
    (1024, 1024, 1, "ios-marketing", None), (27, 20, 2, "universal", "ios"), (27, 20, 3, "universal", "ios"),
    (32, 24, 2, "universal", "ios"), (32, 24, 3, "universal", "ios"), (1024, 768, 1, "ios-marketing", "ios"),
)  # fmt: skip


def asset_catalog(
    stickers: Mapping[str, bytes], labels: Sequence[str], icon: Pixels, rules: PlatformRules
) -> dict[str, bytes]:
    """Path -> content of a catalog with ``stickers`` (file name -> PNG), their ``labels`` for screen readers, and icons.

    ``rules.sticker.side`` is 408 pixels, the size that Messages calls regular.
    """
    pack = f"{_CATALOG}/Sticker Pack.stickerpack"
    files: dict[str, bytes] = {f"{_CATALOG}/Contents.json": _contents({})}
    folders = []
    for (name, data), label in zip(stickers.items(), labels, strict=True):
        folder = f"{PurePosixPath(name).stem}.sticker"
        folders.append({"filename": folder})
        properties = {"filename": name} | ({"accessibility-label": label} if label else {})
        files[f"{pack}/{folder}/Contents.json"] = _contents({"properties": properties})
        files[f"{pack}/{folder}/{name}"] = data
    files[f"{pack}/Contents.json"] = _contents({"properties": {"grid-size": "regular"}, "stickers": folders})
    return {**files, **_icons(icon)}


def _icons(icon: Pixels) -> dict[str, bytes]:
    folder = f"{_CATALOG}/iMessage App Icon.stickersiconset"
    entries, files = [], {}
    for width, height, scale, idiom, platform in _ICONS:
        name = f"icon-{width}x{height}@{scale}x.png"
        entry = {"filename": name, "size": f"{width}x{height}", "scale": f"{scale}x", "idiom": idiom}
        entries.append(entry if platform is None else {**entry, "platform": platform})
        pixels = _on_white(icon, round(width * scale), round(height * scale))
        files[f"{folder}/{name}"] = encode_image(pixels, "PNG", "trainedAlgorithmicMedia")
    return {f"{folder}/Contents.json": _contents({"images": entries}), **files}


def _on_white(pixels: Pixels, width: int, height: int) -> Pixels:
    """A sticker (side, side, 4) in the middle of a white image (height, width, 3): icons must be opaque."""
    side = min(width, height)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (width, height), "white")
    canvas.alpha_composite(image, ((width - side) // 2, (height - side) // 2))
    return np.asarray(canvas.convert("RGB"), np.uint8)


def _contents(values: Mapping[str, object]) -> bytes:
    return (json.dumps({**values, "info": _INFO}, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
