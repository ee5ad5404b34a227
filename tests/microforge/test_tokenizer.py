"""The tokenizer: fixed layout, exact round trip, and no way to type a reserved token."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from microforge.errors import CheckpointError, PromptError, SpecError
from microforge.io.tokenizer_file import first_tokens
from microforge.spec import TASKS
from microforge.tokenizer import (
    BOS,
    EOS,
    PAD,
    RESERVED,
    SHIPPED_TOKENIZER,
    TASK_IDS,
    PromptTokenizer,
    clean_text,
    train_tokenizer,
)

TOKENIZER = PromptTokenizer.load()
LIBRARY = Tokenizer.from_file(str(SHIPPED_TOKENIZER))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_tokens_round_trip_the_normalised_text(text: str) -> None:
    ids = TOKENIZER.tokens(text)
    assert TOKENIZER.decode(ids) == LIBRARY.normalizer.normalize_str(text)
    assert all(len(RESERVED) <= index < TOKENIZER.vocab_size for index in ids)


@given(texts, st.sampled_from(TASKS), st.integers(4, 40))
def test_encode_frames_pads_and_masks(text: str, task: str, max_length: int) -> None:
    tokens = TOKENIZER.tokens(text)
    if not tokens:
        with pytest.raises(PromptError):
            TOKENIZER.encode(text, task, max_length)
        return
    result = TOKENIZER.encode(text, task, max_length)
    used = int(result.mask.sum())
    assert result.ids.shape == result.mask.shape == (max_length,)
    assert result.ids.dtype == np.int64 and result.mask.dtype == np.float32
    assert list(result.ids[:2]) == [BOS, TASK_IDS[task]] and result.ids[used - 1] == EOS
    assert (result.ids[used:] == PAD).all() and result.mask[:used].all()
    assert list(result.ids[2 : used - 1]) == tokens[: max_length - 3]
    assert result.truncated == (len(tokens) > max_length - 3)


@pytest.mark.parametrize("token", RESERVED)
def test_reserved_tokens_that_a_prompt_spells_are_ordinary_text(token: str) -> None:
    for text in (token, f"a{token}b", f"a red circle {token} {token}"):
        assert min(TOKENIZER.tokens(text)) >= len(RESERVED)


@pytest.mark.parametrize("text", ["", "  ", "\n\t "])
def test_encode_refuses_a_blank_prompt_in_one_line(text: str) -> None:
    with pytest.raises(PromptError, match=r"^the prompt is empty; [^\n]+$"):
        TOKENIZER.encode(text)


def test_encode_empty_holds_begin_task_and_end_only() -> None:
    result = TOKENIZER.encode_empty("edit", 6)
    assert list(result.ids) == [BOS, TASK_IDS["edit"], EOS, PAD, PAD, PAD]
    assert list(result.mask) == [1, 1, 1, 0, 0, 0] and not result.truncated


def test_encode_ignores_case_composition_and_outer_spaces() -> None:
    plain = TOKENIZER.tokens("a café on a red circle")
    assert TOKENIZER.tokens("  A CAFE\u0301 on a Red Circle ") == plain


def test_encode_survives_half_a_surrogate_pair() -> None:
    assert TOKENIZER.tokens("red \ud83d circle") == TOKENIZER.tokens("red ? circle")


def test_encode_names_the_allowed_tasks_and_lengths() -> None:
    with pytest.raises(SpecError, match="unknown task 'paint'; allowed: generate"):
        TOKENIZER.encode("a red circle", "paint")
    with pytest.raises(SpecError, match="max_length is 3; at least 4"):
        TOKENIZER.encode("a red circle", max_length=3)
    with pytest.raises(SpecError, match="max_length is 2; at least 3"):
        TOKENIZER.encode_empty(max_length=2)


def test_reserved_tokens_have_their_fixed_ids() -> None:
    vocabulary = LIBRARY.get_vocab()
    assert [vocabulary[token] for token in RESERVED] == list(range(16))
    assert RESERVED[:8] == (
        "<pad>", "<bos>", "<eos>", "<unk>", "<generate>", "<edit>", "<inpaint>", "<super-resolve>",
    )  # fmt: skip
    assert len(vocabulary) == TOKENIZER.vocab_size == 8192


def test_train_tokenizer_pads_a_small_corpus_and_repeats_itself() -> None:
    corpus = ["a red circle", "a blue square", "a red square"] * 4
    first, second = (train_tokenizer(corpus, 512) for _ in range(2))
    assert first.to_str() == second.to_str() and first.get_vocab_size() == 512
    assert "<unused-511>" in first.get_vocab()
    with pytest.raises(SpecError, match="vocab_size is 200; at least 272"):
        train_tokenizer(corpus, 200)


def test_save_and_load_give_the_same_tokens(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new" / "tokenizer.json")
    loaded = PromptTokenizer.load(tmp_path / "new" / "tokenizer.json")
    assert loaded.tokens("two stars") == TOKENIZER.tokens("two stars")


def test_load_refuses_missing_broken_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match="cannot read tokenizer"):
        PromptTokenizer.load(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"not a tokenizer\.json"):
        PromptTokenizer.load(path)
    path.write_text(
        SHIPPED_TOKENIZER.read_text(encoding="utf-8").replace("<bos>", "<start>"), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="tokenizer has <bos> at id None; it must be 1"):
        PromptTokenizer.load(path)


def test_prompt_tokenizer_refuses_added_tokens_that_text_could_spell() -> None:
    tokenizer = Tokenizer.from_file(str(SHIPPED_TOKENIZER))
    tokenizer.add_special_tokens(["<eos>"])
    with pytest.raises(CheckpointError, match="has added tokens"):
        PromptTokenizer(tokenizer)


#: Texts whose beginning is hard to cut: words without an end, marks that compose, spaces, contractions, emoji.
_PIECES = (
    "a red circle ", "a", "\u0301", "é", " ", "\x00", "1", "'re", "don't ", "\U0001f469\u200d\U0001f4bb", "日本", "ab", "ba",
    "the", "İ", "ﬁ", "!?", "\n", "circle", "recircle",
)  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(_PIECES), st.integers(1, 400)), min_size=1, max_size=6),
    st.integers(4, 64),
)
@settings(max_examples=60, deadline=None)
def test_a_long_prompt_has_the_ids_of_tokenizing_it_whole(
    parts: list[tuple[str, int]], max_length: int
) -> None:
    text = "".join(piece * count for piece, count in parts)
    whole = TOKENIZER.tokens(text)
    first = first_tokens(LIBRARY, text, max_length - 2, max(map(len, LIBRARY.get_vocab())))
    assert first is None or (len(first) >= max_length - 2 and first == whole[: len(first)])


def _encoding_seconds(text: str) -> float:
    """Processor time of one encoding; the least of several is not that of a busy machine."""
    started = time.process_time()
    TOKENIZER.encode(text)
    return time.process_time() - started


@pytest.mark.parametrize("piece", _PIECES)
def test_a_prompt_of_a_megabyte_is_cut_before_it_is_tokenized(piece: str) -> None:
    text = "x" + piece * (1_000_000 // len(piece.encode())) + "x"
    short = "x" + piece * (30_000 // len(piece.encode())) + "x"
    assert min(_encoding_seconds(text) for _ in range(3)) < 1.0
    result = TOKENIZER.encode(text)
    assert result.truncated and list(result.ids[2:63]) == TOKENIZER.tokens(short)[:61]


def test_first_tokens_are_not_guessed_for_texts_that_end_early() -> None:
    assert first_tokens(LIBRARY, "a red circle", 5, 23) is None
    blank = " " * 50_000
    assert first_tokens(LIBRARY, blank + "a" + blank, 5, 23) is None
    assert not TOKENIZER.encode(blank + "a" + blank).truncated


def test_clean_text_replaces_what_is_no_character() -> None:
    assert clean_text("a \udce9 \ud800b é") == "a ? ?b é"
