"""What scenes of stickers are made of: subjects, their pictures by style, the colours that they take, and what is held out.

Training never shows a held-out picture (a subject in one of its styles), a subject in a held-out colour, or a held-out pair
of subjects in one image; each is reported apart.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from microforge.data.stickers.catalogue import Sticker
from microforge.data.stickers.splits import held_out_color, held_out_pair, held_out_picture
from microforge.data.stickers.store import SpriteStore
from microforge.data.world.scenes import COLORS
from microforge.errors import DataError

#: How often subjects of a group are sampled, relative to 1: alone, and in company.
ALONE: Mapping[str, float] = types.MappingProxyType({"flags": 0.3, "symbols": 0.4, "people-body": 0.7})
IN_COMPANY: Mapping[str, float] = types.MappingProxyType(
    {"flags": 0.03, "symbols": 0.06, "people-body": 0.3, "smileys-emotion": 0.5}
)
#: Groups whose pictures never say a colour that they have by nature.
_UNSAID = ("people-body", "smileys-emotion", "flags", "symbols")
#: From this many pictures on, some are held out.
ENOUGH_TO_HOLD_OUT = 200


class StickerWorld:
    """The subjects of a sticker set and what may be shown of them."""

    def __init__(self, stickers: Sequence[Sticker], store: SpriteStore) -> None:
        """Sort ``stickers``, whose rows are those of ``store``.

        Raises:
            DataError: when none is usable.
        """
        self.stickers, self.store = tuple(stickers), store
        self.holds_out = len(stickers) >= ENOUGH_TO_HOLD_OUT
        rows: dict[str, dict[str, int]] = {}
        for row, item in enumerate(stickers):
            if store.usable(row):
                rows.setdefault(item.subject, {}).setdefault(item.style, row)
        if not rows:
            raise DataError(f"none of the {len(stickers)} stickers can be used")
        #: Subject -> style -> row; every usable picture.
        self.rows: Mapping[str, Mapping[str, int]] = rows
        #: Subject -> the styles that training shows.
        self.seen_styles = {
            subject: tuple(style for style in styles if not self.hides_picture(subject, style))
            for subject, styles in rows.items()
        }
        self.subjects = tuple(subject for subject, styles in self.seen_styles.items() if styles)
        if not self.subjects:
            raise DataError("every sticker is held out; add some")
        self.styles = tuple(dict.fromkeys(item.style for item in stickers))
        self._alone, self._company = (self._cumulative(weights) for weights in (ALONE, IN_COMPANY))

    def _cumulative(self, weights: Mapping[str, float]) -> NDArray[np.float64]:
        each = np.array([weights.get(self.group(subject), 1.0) for subject in self.subjects])
        ends: NDArray[np.float64] = np.cumsum(each) / each.sum()
        return ends

    def group(self, subject: str) -> str:
        """The group of a subject, such as "animals-nature"."""
        return self.stickers[next(iter(self.rows[subject].values()))].group

    def draw_subject(self, rng: np.random.Generator, company: bool = False) -> str:
        """A subject that training shows; ``company``: one that is at home beside others."""
        return self.subjects[int(np.searchsorted(self._company if company else self._alone, rng.random()))]

    def hides_picture(self, subject: str, style: str) -> bool:
        """Whether training never shows ``subject`` in ``style``."""
        return self.holds_out and held_out_picture(subject, style)

    def hides_color(self, subject: str, color: str) -> bool:
        """Whether training never shows ``subject`` in ``color``."""
        return self.holds_out and held_out_color(subject, color)

    def hides_pair(self, first: str, second: str) -> bool:
        """Whether training never shows both subjects in one image."""
        return self.holds_out and held_out_pair(first, second)

    def natural_color(self, row: int) -> str | None:
        """The colour word for picture ``row`` as it is, where one may be said."""
        return None if self.stickers[row].group in _UNSAID else self.store.profiles[row].word

    def colors(self, row: int) -> tuple[str, ...]:
        """Colours that picture ``row`` can be given and that would be seen: none for a name that says a colour itself."""
        item = self.stickers[row]
        words = set(item.name.lower().replace("-", " ").split())
        if not self.store.profiles[row].recolorable or item.group == "flags" or words & set(COLORS):
            return ()
        own = self.store.profiles[row].word
        return tuple(color for color in COLORS if color != own)
