"""The training text: repeatable, and it makes every word of the grammar one token."""

from __future__ import annotations

import re

import numpy as np

from microforge.data.world.captions import caption
from microforge.data.world.edits import sample_edit
from microforge.data.world.scenes import sample_scene
from microforge.data.world.tokenizer_corpus import PROMPT_WORDS, build_tokenizer
from microforge.tokenizer import PromptTokenizer

TOKENIZER = PromptTokenizer.load()


def test_pretrained_tokenizer_keeps_grammar_words_whole_and_captions_short() -> None:
    rng = np.random.default_rng(9)
    texts = [caption(sample_scene(rng), rng) for _ in range(400)]
    texts += [sample_edit(rng).instruction for _ in range(200)]
    words = {word for text in texts for word in re.findall("[a-z]+", text.lower())}
    assert {word for word in words if len(TOKENIZER.tokens(word)) > 1} <= {"sized"}
    assert max(len(TOKENIZER.tokens(text)) for text in texts) < 30


def test_pretrained_tokenizer_keeps_common_prompt_words_whole() -> None:
    assert [word for word in PROMPT_WORDS.split() if len(TOKENIZER.tokens(word)) > 1] == []


def test_build_tokenizer_fills_the_vocabulary_and_agrees_on_the_grammar() -> None:
    built = build_tokenizer()
    assert built.vocab_size == 8192
    assert len(built.tokens("three tiny purple stars on a grey background")) == 8
