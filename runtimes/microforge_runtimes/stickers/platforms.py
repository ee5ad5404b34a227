"""What the platforms ask of a pack of static stickers. No torch.

Sources: WhatsApp's sample apps (github.com/WhatsApp/stickers, Android/README.md and StickerPackValidator.java),
Telegram's Bot API (core.telegram.org/bots/api#stickers) and core.telegram.org/stickers, Apple's documentation of
``MSSticker``, ``MSStickerSize`` and the asset catalog format. A kilobyte is counted as 1,000 bytes, the stricter reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from microforge.errors import SpecError
from microforge_runtimes.marks.image_encoding import Format

PlatformName = Literal["whatsapp", "telegram", "imessage"]


@dataclass(frozen=True)
class ImageRules:
    """One kind of image: its side in pixels, file format and largest file."""

    side: int
    format: Format
    max_bytes: int

    @property
    def suffix(self) -> str:
        return f".{self.format.lower()}"


@dataclass(frozen=True)
class PlatformRules:
    """A platform's rules for a pack.

    Attributes:
        sticker: every sticker, a square image.
        icon: the image that stands for the pack.
        counts: smallest and largest number of stickers.
        emoji: smallest and largest number of emoji per sticker.
        name_length: most characters of the pack's name, and of the author's.
        text_length: most characters of the text for screen readers, or of all keywords.
        margin: pixels around a sticker that stay free.
        outline: width of the white outline in pixels.
    """

    name: PlatformName
    sticker: ImageRules
    icon: ImageRules
    counts: tuple[int, int]
    emoji: tuple[int, int]
    name_length: int
    text_length: int
    margin: int
    outline: int


PLATFORMS: dict[str, PlatformRules] = {
    "whatsapp": PlatformRules(
        "whatsapp", ImageRules(512, "WEBP", 100_000), ImageRules(96, "PNG", 50_000),
        counts=(3, 30), emoji=(1, 3), name_length=128, text_length=125, margin=16, outline=8,
    ),
    "telegram": PlatformRules(
        "telegram", ImageRules(512, "WEBP", 512_000), ImageRules(100, "WEBP", 128_000),
        counts=(1, 120), emoji=(1, 20), name_length=64, text_length=64, margin=0, outline=8,
    ),
    "imessage": PlatformRules(
        "imessage", ImageRules(408, "PNG", 499_999), ImageRules(1024, "PNG", 10_000_000),
        counts=(1, 1000), emoji=(0, 20), name_length=30, text_length=150, margin=4, outline=6,
    ),
}  # fmt: skip


def platform_rules(name: str) -> PlatformRules:
    """The rules of the platform ``name``.

    Raises:
        SpecError: for another name.
    """
    if name not in PLATFORMS:
        raise SpecError(f"--for is {name!r}; allowed: {', '.join(PLATFORMS)}")
    return PLATFORMS[name]


def check_pack(rules: PlatformRules, stickers: int, name: str, author: str) -> None:
    """Refuse a pack that the platform would refuse, before anything is generated.

    Raises:
        SpecError: names the rule.
    """
    low, high = rules.counts
    if not low <= stickers <= high:
        raise SpecError(
            f"a pack for {rules.name} has {low} to {high} stickers, this one {stickers}; "
            f"give {'more prompts, or --count' if stickers < low else 'fewer prompts, or make several packs'}"
        )
    for option, text in (("--pack-name", name), ("--pack-author", author)):
        if not text.strip() or len(text) > rules.name_length:
            raise SpecError(
                f"{option} has {len(text)} characters; {rules.name} allows 1 to {rules.name_length}"
            )
