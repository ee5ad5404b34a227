"""A sticker pack as files: names and contents, ready to be written into one folder. No torch.

Every pack holds ``pack.json``, which says how each sticker was generated, and what its platform reads:

- WhatsApp: ``contents.json`` and a folder, as the sample apps have them below ``assets``, and NAME.wastickers, a zip archive that
  sticker apps import.
- Telegram: the files, and the arguments of the Bot API's ``createNewStickerSet`` as ``sticker_set.json``.
- iMessage: ``Stickers.xcassets``, the asset catalog of an Xcode project of the kind Sticker Pack App.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from microforge.errors import OutputError
from microforge.version import __version__
from microforge_runtimes.images.matte import Pixels
from microforge_runtimes.marks.image_encoding import encode_image
from microforge_runtimes.marks.settings import Settings
from microforge_runtimes.stickers.imessage import asset_catalog
from microforge_runtimes.stickers.platforms import ImageRules, PlatformRules

MARKER = "pack.json"
#: Qualities that are tried until a file is small enough; None is lossless.
_QUALITIES = (None, 95, 85, 70, 50, 30, 10)
#: Times of the files in an archive: the same pack gives the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class PackSticker:
    """A finished sticker.

    ``pixels`` (side, side, 4), ``settings`` of its image, or None to leave them out of the file.
    """

    pixels: Pixels
    prompt: str
    seed: int
    emoji: tuple[str, ...]
    settings: Settings | None


@dataclass(frozen=True)
class StickerPack:
    """Stickers with the pack's name and author; the first one is its icon."""

    name: str
    author: str
    stickers: tuple[PackSticker, ...]
    is_private: bool = False


def pack_files(pack: StickerPack, rules: PlatformRules) -> dict[str, bytes]:
    """Path in the pack's folder -> content.

    Raises:
        OutputError: when an image cannot be made small enough.
    """
    width = max(2, len(str(len(pack.stickers))))
    names = [f"{number:0{width}d}_{slug(item.prompt)}" for number, item in enumerate(pack.stickers, 1)]
    images = [encoded(item.pixels, rules.sticker, item.settings) for item in pack.stickers]
    files = {f"{name}{rules.sticker.suffix}": data for name, data in zip(names, images, strict=True)}
    writers = {"whatsapp": _whatsapp, "telegram": _telegram, "imessage": _imessage}
    written = writers[rules.name](pack, rules, files)
    return {**written, MARKER: _json(_record(pack, rules, written))}


def slug(text: str) -> str:
    """A short name of ASCII letters, digits and hyphens for ``text``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "sticker"


def encoded(pixels: Pixels, rules: ImageRules, settings: Settings | None = None) -> bytes:
    """``pixels`` (h, w, 4) as a file that the rules allow: lossless, else of the best quality that is small enough.

    Raises:
        OutputError: when no quality is.
    """
    for quality in _QUALITIES:
        data = encode_image(pixels, rules.format, "trainedAlgorithmicMedia", settings, quality=quality)
        if len(data) <= rules.max_bytes:
            return data
    raise OutputError(
        f"an image of {pixels.shape[1]}x{pixels.shape[0]} pixels takes {len(data)} bytes at the lowest quality, "
        f"{rules.max_bytes} are allowed; --private leaves out its settings"
    )


def icon(pack: StickerPack, rules: ImageRules) -> bytes:
    """The first sticker at the size of the pack's icon."""
    image = Image.fromarray(pack.stickers[0].pixels)
    resized = image.resize((rules.side, rules.side), Image.Resampling.LANCZOS)
    return encoded(np.asarray(resized, np.uint8), rules)


def _whatsapp(pack: StickerPack, rules: PlatformRules, files: Mapping[str, bytes]) -> dict[str, bytes]:
    short = slug(pack.name)
    digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:8]
    folder, tray = f"{short}-{digest}", "tray.png"
    contents = {
        "sticker_packs": [
            {
                "identifier": folder,
                "name": pack.name,
                "publisher": pack.author,
                "tray_image_file": tray,
                "image_data_version": digest,
                "animated_sticker_pack": False,
                "stickers": [
                    {"image_file": name, "emojis": list(item.emoji)}
                    | ({} if pack.is_private else {"accessibility_text": item.prompt[: rules.text_length]})
                    for name, item in zip(files, pack.stickers, strict=True)
                ],
            }
        ]
    }
    images = {tray: icon(pack, rules.icon), **files}
    texts = {"title.txt": pack.name.encode(), "author.txt": pack.author.encode()}
    return {
        "contents.json": _json(contents),
        **{f"{folder}/{name}": data for name, data in images.items()},
        f"{short}.wastickers": _archive({**texts, **images}),
    }


def _telegram(pack: StickerPack, rules: PlatformRules, files: Mapping[str, bytes]) -> dict[str, bytes]:
    thumbnail = f"thumbnail{rules.icon.suffix}"
    name = re.sub(r"^[^a-z]+", "", slug(pack.name).replace("-", "_")) or "stickers"
    arguments = {
        "name": f"{name}_by_YOURBOT"[: rules.name_length],
        "title": pack.name,
        "sticker_type": "regular",
        "stickers": [
            {"sticker": f"attach://{file}", "format": "static", "emoji_list": list(item.emoji)}
            | ({} if pack.is_private else {"keywords": _keywords(item.prompt, rules.text_length)})
            for file, item in zip(files, pack.stickers, strict=True)
        ],
        "thumbnail": f"attach://{thumbnail}",
    }
    return {**files, thumbnail: icon(pack, rules.icon), "sticker_set.json": _json(arguments)}


def _imessage(pack: StickerPack, rules: PlatformRules, files: Mapping[str, bytes]) -> dict[str, bytes]:
    labels = ["" if pack.is_private else item.prompt[: rules.text_length] for item in pack.stickers]
    return asset_catalog(files, labels, pack.stickers[0].pixels, rules)


def _keywords(prompt: str, length: int) -> list[str]:
    """Words of a prompt, at most 20 and ``length`` characters together."""
    words: list[str] = []
    for word in dict.fromkeys(re.findall(r"\w{2,}", prompt.lower())):
        if len(words) < 20 and sum(map(len, words)) + len(word) <= length:
            words.append(word)
    return words


def _record(pack: StickerPack, rules: PlatformRules, written: Mapping[str, bytes]) -> dict[str, object]:
    stickers = [
        {"emoji": list(item.emoji)} | ({} if pack.is_private else {"prompt": item.prompt, "seed": item.seed})
        for item in pack.stickers
    ]
    sizes = {name: len(data) for name, data in written.items()}
    return {
        "tool": f"microforge {__version__}", "platform": rules.name, "name": pack.name, "author": pack.author,
        "stickers": stickers, "bytes": sizes,
    }  # fmt: skip


def _archive(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return stream.getvalue()


def _json(value: Mapping[str, object] | Sequence[object]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
