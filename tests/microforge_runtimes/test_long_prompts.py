"""A bundle's tokenizer cuts long prompts before it tokenizes them, with the same ids."""

from __future__ import annotations

import time

import pytest

from microforge.bundle.inputs import Tokenizer
from microforge.tokenizer import BOS, EOS, PAD, SHIPPED_TOKENIZER, TASK_IDS, PromptTokenizer
from microforge_runtimes.tokenization import FramedTokenizer

PIECES = ("a red circle ", "a", "é", "e\u0301", "1", "日本", "don't ")


@pytest.fixture(scope="module")
def framed() -> FramedTokenizer:
    entry = Tokenizer.model_validate({
        "file": {"path": "tokenizer.json", "sha256": "0" * 64, "bytes": 1}, "length": 64, "pad": PAD,
        "prefix": {"generate": [BOS, TASK_IDS["generate"]]}, "suffix": [EOS],
    })  # fmt: skip
    return FramedTokenizer(entry, SHIPPED_TOKENIZER)


@pytest.mark.parametrize("piece", PIECES)
def test_a_prompt_of_a_megabyte_has_the_ids_of_its_beginning_within_a_second(
    framed: FramedTokenizer, piece: str
) -> None:
    repeats = 1_000_000 // len(piece.encode())
    started = time.process_time()
    ids = framed.encode(piece * repeats, "generate")
    assert time.process_time() - started < 1.0 and ids.truncated
    whole = PromptTokenizer.load().tokens(piece * (repeats // 40))
    assert list(ids.ids[2:63]) == whole[:61]
