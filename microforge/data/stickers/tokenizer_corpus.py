"""The texts that a tokenizer for six languages is trained on: captions, edit instructions, names and tags of a sticker set.

The English corpus of the shipped tokenizer stands beside them, so that ordinary prompts stay short. The tokenizer that ships
belongs to the shipped weights; this one is for weights that are trained from new text encoders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from microforge.data.stickers.captions import sticker_caption
from microforge.data.stickers.edits import sample_sticker_edit
from microforge.data.stickers.grammars import GRAMMARS
from microforge.data.stickers.nouns import caption_nouns
from microforge.data.stickers.scenes import sample_sticker_scene
from microforge.data.stickers.world import StickerWorld
from microforge.data.world.captions import caption
from microforge.data.world.edits import sample_edit
from microforge.data.world.scenes import sample_scene
from microforge.data.world.tokenizer_corpus import PROMPT_WORDS, documentation_texts
from microforge.streams import FixedSeed
from microforge.tokenizer import PromptTokenizer, train_tokenizer

#: Texts of each kind: of shapes, and of stickers for every language.
SHAPE_CAPTIONS, SHAPE_EDITS, CAPTIONS, EDITS = 8_000, 4_000, 3_000, 800
#: How often every name is repeated: each common word of a language is to become a token before rare English ones do.
NAME_REPEATS, WORD_REPEATS = 12, 25


def sticker_tokenizer_texts(world: StickerWorld) -> Iterator[str]:
    """Every training text, in a fixed order."""
    rng = np.random.default_rng(FixedSeed.TOKENIZER_CORPUS)
    for _ in range(SHAPE_CAPTIONS):
        yield caption(sample_scene(rng), rng)
    for _ in range(SHAPE_EDITS):
        yield sample_edit(rng).instruction
    for language in GRAMMARS:
        for _ in range(CAPTIONS):
            yield sticker_caption(world, sample_sticker_scene(world, rng), rng, language)
        for _ in range(EDITS):
            yield sample_sticker_edit(world, rng, language=language).instruction
    for language in GRAMMARS:
        names = list(_names(world, language))
        for _ in range(NAME_REPEATS):
            yield from names
        yield from _tags(world, language)
    words = " ".join(PROMPT_WORDS.split())
    for _ in range(WORD_REPEATS):
        yield words
    yield from documentation_texts()


def _names(world: StickerWorld, language: str) -> Iterator[str]:
    for styles in world.rows.values():
        yield from caption_nouns(world.stickers[next(iter(styles.values()))], language)


def _tags(world: StickerWorld, language: str) -> Iterator[str]:
    for styles in world.rows.values():
        yield " ".join(world.stickers[next(iter(styles.values()))].tags.get(language, ()))


def build_sticker_tokenizer(world: StickerWorld, vocab_size: int = 8192) -> PromptTokenizer:
    """Train the tokenizer; the same stickers give the same file.

    Raises:
        SpecError: when ``vocab_size`` cannot hold the reserved tokens and the 256 bytes.
    """
    return PromptTokenizer(train_tokenizer(sticker_tokenizer_texts(world), vocab_size))


def caption_lengths(
    world: StickerWorld, tokenizer: PromptTokenizer, captions: int = 400
) -> Mapping[str, float]:
    """Mean tokens of a caption by language, on captions that the tokenizer was not trained on."""
    rng = np.random.default_rng(FixedSeed.UNSEEN_SCENES)
    scenes = [sample_sticker_scene(world, rng) for _ in range(captions)]
    return {
        language: float(
            np.mean([len(tokenizer.tokens(sticker_caption(world, scene, rng, language))) for scene in scenes])
        )
        for language in GRAMMARS
    }
