"""Prompts to token ids by a bundle's tokenizers: a ``tokenizer.json`` and its frame as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microforge.bundle.inputs import Tokenizer
from microforge.errors import BundleError
from microforge.io.long_text import LONG_TEXT, first_tokens
from microforge.tokenizer import TokenIds, clean_text


class FramedTokenizer:
    """Encodes prompts as one of the manifest's ``tokenizers`` says."""

    def __init__(self, entry: Tokenizer, path: Path) -> None:
        """Read the ``tokenizer.json`` at ``path``, whose hash was checked.

        Raises:
            BundleError: when it is not one.
        """
        import tokenizers  # only when a prompt is read

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text("utf-8"))
        except Exception as error:  # the library raises bare Exception for every malformed file
            raise BundleError(f"{path} is not a tokenizer.json: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._entry = entry
        self._longest = max(map(len, self._tokenizer.get_vocab()))  # of a byte-level token: its bytes

    def is_empty(self, text: str) -> bool:
        """Whether ``text`` has no ids by itself."""
        return not self._first_ids(text, 1)

    def encode(self, text: str | None, task: str, user: bool = True) -> TokenIds:
        """The framed ids of ``text`` for ``task``; None is the empty prompt.

        Args:
            user: whether it is the user's prompt, which the entry's text goes before.
        """
        entry, own, prefix = self._entry, [], self._entry.prefix[task]
        space = entry.length - len(prefix) - len(entry.suffix)
        if text is not None:
            whole = entry.before + text if user else text
            own = self._first_ids(whole, space + 1) if entry.truncation == "right" else self._ids(whole)
        kept = own[:space] if entry.truncation == "right" else own[max(len(own) - space, 0) :]
        row = np.array([*prefix, *kept, *entry.suffix], np.int64)
        start = 0 if entry.padding == "right" else entry.length - len(row)
        ids, mask = np.full(entry.length, entry.pad, np.int64), np.zeros(entry.length, np.float32)
        ids[start : start + len(row)], mask[start : start + len(row)] = row, 1.0
        return TokenIds(ids, mask, truncated=len(kept) < len(own))

    def _ids(self, text: str) -> list[int]:
        """Ids without special tokens; half a surrogate pair becomes a question mark."""
        return list(self._tokenizer.encode(clean_text(text), add_special_tokens=False).ids)

    def _first_ids(self, text: str, count: int) -> list[int]:
        """At least the first ``count`` of ``_ids(text)``, or all; a long text is not tokenized to its end."""
        ids = None
        if len(text) > LONG_TEXT:
            ids = first_tokens(self._tokenizer, clean_text(text), count, self._longest)
        return self._ids(text) if ids is None else ids
