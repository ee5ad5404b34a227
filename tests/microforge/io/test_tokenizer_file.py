"""Tokenizer files of strangers: nothing grows out of proportion, nothing stops the process, nothing prints by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from microforge.errors import CheckpointError
from microforge.io.tokenizer_file import MAX_GROWTH, TokenizerFileError, parse_tokenizer
from microforge.tokenizer import SHIPPED_TOKENIZER, PromptTokenizer

SHIPPED: dict[str, Any] = json.loads(SHIPPED_TOKENIZER.read_text("utf-8"))
DOUBLING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


def _text(**changes: Any) -> str:
    return json.dumps({**SHIPPED, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 40}}, "40 steps|times longer"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 10}}, "1.02e\\+03 times longer"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "a"}}, "empty pattern"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5000}}, "2048 characters"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA/////w=="}}, "not a tokenizer.json"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}}, "cannot encode"),
        ({"model": {**SHIPPED["model"], "vocab": {}, "merges": []}}, "vocabulary is empty"),
        ({"model": {"type": "Magic"}}, "not a tokenizer.json"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_must_not_run_is_refused_in_one_silent_line(
    changes: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TokenizerFileError, match=message) as caught:
        parse_tokenizer(_text(**changes))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert capfd.readouterr() == ("", ""), "a panic of the library prints nothing"


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 5000, '{"version": "1.0"}', "9" * 5000])
def test_what_is_no_tokenizer_is_refused(text: str) -> None:
    with pytest.raises(TokenizerFileError, match=r"is not a tokenizer\.json"):
        parse_tokenizer(text)


def test_padding_and_truncation_of_the_file_are_left_out() -> None:
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}  # fmt: skip
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 10, "direction": "Right"}
    started = time.process_time()
    changed = parse_tokenizer(_text(padding=padding, truncation=truncation))
    plain = parse_tokenizer(_text())
    assert changed.encode("a red circle on white").ids == plain.encode("a red circle on white").ids
    assert time.process_time() - started < 2.0


def test_growth_up_to_the_limit_is_allowed() -> None:
    steps = {"type": "Sequence", "normalizers": [DOUBLING] * (MAX_GROWTH.bit_length() - 1)}
    assert len(parse_tokenizer(_text(normalizer=steps)).encode("a").ids) > 1


def test_a_checkpoints_tokenizer_is_read_through_the_same_door(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(_text(normalizer={"type": "Sequence", "normalizers": [DOUBLING] * 20}), "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json could make a text"):
        PromptTokenizer.load(path)
