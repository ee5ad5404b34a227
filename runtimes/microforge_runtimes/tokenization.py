"""Prompts to token ids by a bundle's tokenizers: a ``tokenizer.json`` and its frame as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microforge.bundle.inputs import Tokenizer
from microforge.errors import BundleError
from microforge.tokenizer import TokenIds


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

    def count(self, text: str) -> int:
        """How many ids ``text`` has by itself."""
        return len(self._ids(text))

    def encode(self, text: str | None, task: str, user: bool = True) -> TokenIds:
        """The framed ids of ``text`` for ``task``; None is the empty prompt.

        Args:
            user: whether it is the user's prompt, which the entry's text goes before.
        """
        entry, own = self._entry, []
        if text is not None:
            own = self._ids(entry.before + text if user else text)
        prefix = entry.prefix[task]
        space = entry.length - len(prefix) - len(entry.suffix)
        kept = own[:space] if entry.truncation == "right" else own[max(len(own) - space, 0) :]
        row = np.array([*prefix, *kept, *entry.suffix], np.int64)
        start = 0 if entry.padding == "right" else entry.length - len(row)
        ids, mask = np.full(entry.length, entry.pad, np.int64), np.zeros(entry.length, np.float32)
        ids[start : start + len(row)], mask[start : start + len(row)] = row, 1.0
        return TokenIds(ids, mask, truncated=len(kept) < len(own))

    def _ids(self, text: str) -> list[int]:
        """Ids without special tokens; half a surrogate pair becomes a question mark."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)
