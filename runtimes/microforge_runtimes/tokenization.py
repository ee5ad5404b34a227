"""Prompts to token ids by a bundle's tokenizers: a ``tokenizer.json`` and its frame as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microforge.bundle.inputs import Tokenizer
from microforge.errors import BundleError, PromptError
from microforge.io.tokenizer_file import (
    LONG_TEXT,
    TokenizerFileError,
    first_tokens,
    parse_tokenizer,
    token_ids,
)
from microforge.io.user_file import read_user_text
from microforge.tokenizer import TokenIds, clean_text


class FramedTokenizer:
    """Encodes prompts as one of the manifest's ``tokenizers`` says."""

    def __init__(self, entry: Tokenizer, path: Path) -> None:
        """Read the ``tokenizer.json`` at ``path``, whose hash was checked.

        Raises:
            BundleError: when it is not one.
        """
        try:
            self._tokenizer = parse_tokenizer(read_user_text(path))
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}") from None
        except TokenizerFileError as error:
            raise BundleError(f"{path} {error}") from None
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
        try:
            return token_ids(self._tokenizer, clean_text(text))
        except TokenizerFileError as error:
            raise PromptError(f"the tokenizer {error}") from None

    def _first_ids(self, text: str, count: int) -> list[int]:
        """At least the first ``count`` of ``_ids(text)``, or all; a long text is not tokenized to its end."""
        ids = None
        if len(text) > LONG_TEXT:
            ids = first_tokens(self._tokenizer, clean_text(text), count, self._longest)
        return self._ids(text) if ids is None else ids
