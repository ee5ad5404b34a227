"""The tokenizer of prompts: byte-level BPE in a standard ``tokenizer.json``. No torch.

The layout of every encoded prompt is ``<bos> <task> tokens... <eos> <pad>...``. Ids 0 to 15 are reserved.
They are in the vocabulary, but no merge leads to them and none is an "added token", so text that spells
``<eos>`` in a prompt is encoded as ordinary characters. The normaliser (NFC, lower case, strip) is part of
the file, so every runtime that reads it encodes the same text alike.

Letters: L tokens of an encoded prompt, padding included.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from microforge.errors import CheckpointError, PromptError, SpecError
from microforge.io.tokenizer_file import (
    LONG_TEXT,
    TokenizerFileError,
    first_tokens,
    parse_tokenizer,
    token_ids,
)
from microforge.io.user_file import read_user_text
from microforge.spec import TASKS

PAD, BOS, EOS, UNK = 0, 1, 2, 3
_NAMED = ("<pad>", "<bos>", "<eos>", "<unk>", *(f"<{task}>" for task in TASKS))
#: The reserved tokens; a token's id is its position.
RESERVED = (*_NAMED, *(f"<reserved-{i}>" for i in range(16 - len(_NAMED))))
#: Task -> id of its prefix token.
TASK_IDS = {task: RESERVED.index(f"<{task}>") for task in TASKS}
#: The tokenizer that ships with the package.
SHIPPED_TOKENIZER = Path(__file__).parent / "pretrained" / "tokenizer.json"
#: Reserved positions around the text: bos, task, eos.
_FRAME = 3


@dataclass(frozen=True)
class TokenIds:
    """An encoded prompt: ``ids`` int64 (L,), ``mask`` float32 (L,) that is 0 on padding, ``truncated`` if text was cut off."""

    ids: NDArray[np.int64]
    mask: NDArray[np.float32]
    truncated: bool


class PromptTokenizer:
    """Encodes prompts for the text encoder."""

    _FIXED_LENGTH: ClassVar[bool] = False  # whether ``load`` keeps the file's padding to one length

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer of the library ``tokenizers``.

        Raises:
            CheckpointError: when the reserved tokens are not at their ids, or text could produce one.
        """
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        for index, token in enumerate(RESERVED):
            if vocabulary.get(token) != index:
                raise CheckpointError(
                    f"the tokenizer has {token} at id {vocabulary.get(token)}; it must be {index}"
                )
        if tokenizer.get_added_tokens_decoder():
            raise CheckpointError("the tokenizer has added tokens, which a prompt could spell; remove them")
        self._tokenizer = tokenizer
        self._longest = max(map(len, vocabulary))  # of a byte-level token: its bytes

    @classmethod
    def load(cls, path: str | Path = SHIPPED_TOKENIZER) -> PromptTokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            CheckpointError: when it is missing, not a tokenizer, or lacks the reserved tokens.
        """
        try:
            text = read_user_text(Path(path))
        except OSError as error:
            raise CheckpointError(f"cannot read tokenizer {path}: {error}") from None
        try:
            tokenizer = parse_tokenizer(text, cls._FIXED_LENGTH)
        except TokenizerFileError as error:
            raise CheckpointError(f"{path} {error}") from None
        return cls(tokenizer)

    def save(self, path: str | Path) -> None:
        """Write the ``tokenizer.json``; missing folders are made."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """The contents of its ``tokenizer.json``."""
        return str(self._tokenizer.to_str())

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, the rows of the text encoder's embedding."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, task: str = "generate", max_length: int = 64) -> TokenIds:
        """Encode one prompt; text beyond ``max_length - 3`` tokens is cut off, the end token stays.

        Raises:
            PromptError: for an empty or blank prompt.
            SpecError: for an unknown task, or a ``max_length`` that holds no text.
        """
        if max_length <= _FRAME:
            raise SpecError(f"max_length is {max_length}; at least {_FRAME + 1} is needed")
        tokens = self._first_tokens(text, max_length - _FRAME + 1)
        if not tokens:
            raise PromptError("the prompt is empty; describe the image in a few words")
        return _framed(tokens, task, max_length)

    def encode_empty(self, task: str = "generate", max_length: int = 64) -> TokenIds:
        """Encode the empty prompt, which guidance contrasts with: begin, task and end tokens only.

        Raises:
            SpecError: for an unknown task, or a ``max_length`` below 3.
        """
        if max_length < _FRAME:
            raise SpecError(f"max_length is {max_length}; at least {_FRAME} is needed")
        return _framed([], task, max_length)

    def tokens(self, text: str) -> list[int]:
        """The ids of ``text`` without reserved tokens; half a surrogate pair becomes a question mark.

        Raises:
            PromptError: when the tokenizer's own patterns or tables fail on it.
        """
        try:
            return token_ids(self._tokenizer, clean_text(text))
        except TokenizerFileError as error:
            raise PromptError(f"the tokenizer {error}") from None

    def _first_tokens(self, text: str, count: int) -> list[int]:
        """At least the first ``count`` of ``tokens(text)``, or all; does not tokenize a long text to its end."""
        ids = None
        if len(text) > LONG_TEXT:
            ids = first_tokens(self._tokenizer, clean_text(text), count, self._longest)
        return self.tokens(text) if ids is None else ids

    def decode(self, ids: Iterable[int]) -> str:
        """The normalised text of ``ids`` without reserved tokens."""
        plain = [index for index in map(int, ids) if index >= len(RESERVED)]
        return self._tokenizer.decode(plain, skip_special_tokens=False).removeprefix(" ")


def clean_text(text: str) -> str:
    """``text`` without lone surrogates, which stand for undecodable bytes of a command line: each becomes ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _framed(tokens: list[int], task: str, max_length: int) -> TokenIds:
    """``tokens`` between the reserved ones, padded to ``max_length``."""
    if task not in TASK_IDS:
        raise SpecError(f"unknown task {task!r}; allowed: {', '.join(TASK_IDS)}")
    text = tokens[: max_length - _FRAME]
    row = [BOS, TASK_IDS[task], *text, EOS]
    ids = np.full(max_length, PAD, dtype=np.int64)
    ids[: len(row)] = row
    mask = (np.arange(max_length) < len(row)).astype(np.float32)
    return TokenIds(ids, mask, truncated=len(text) < len(tokens))


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192) -> Tokenizer:
    """Train a byte-level BPE of exactly ``vocab_size`` entries on ``texts``; the same texts give the same file.

    When the texts hold too few merges, the rest of the vocabulary is ``<unused-N>``, which no text produces.

    Raises:
        SpecError: when ``vocab_size`` cannot hold the reserved tokens and the 256 bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(RESERVED) + len(alphabet):
        raise SpecError(f"vocab_size is {vocab_size}; at least {len(RESERVED) + len(alphabet)} is needed")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=list(RESERVED), initial_alphabet=alphabet,
        show_progress=False,
    )  # fmt: skip
    learner = _empty_tokenizer(models.BPE())
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    # Rebuilt from its parts: the trainer registers the reserved tokens as added tokens, which text could spell.
    vocabulary: dict[str, int] = learned["vocab"]
    for index in range(len(vocabulary), vocab_size):
        vocabulary[f"<unused-{index}>"] = index
    merges = [(left, right) for left, right in learned["merges"]]
    return _empty_tokenizer(models.BPE(vocab=vocabulary, merges=merges))


def _empty_tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()]
    )
    # A leading space makes the first word the same token as any other.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
