"""Random choices that are the same in every Python version: they come from the project's own generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from microforge.noise import raw_words

ItemT = TypeVar("ItemT")
_BLOCKS = 4096


class RandomWords:
    """A stream of 32-bit Philox words of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed, self._block = seed, 0
        self._words: Iterator[int] = iter(())

    def below(self, limit: int) -> int:
        """A number from 0 to ``limit`` - 1."""
        word = next(self._words, None)
        if word is None:
            words = raw_words(self._seed, self._block, _BLOCKS)
            self._words, self._block = iter(words.reshape(-1).tolist()), self._block + _BLOCKS
            return self.below(limit)
        return int(word) % limit

    def choice(self, items: Sequence[ItemT]) -> ItemT:
        """One of ``items``."""
        return items[self.below(len(items))]
