"""Ambiguous prompts that leave the layout open, each with an explicit prompt that states it.

Several layouts satisfy "a star and a ring", and a model that has not settled on one may draw an object twice. "a star
left of a ring" states the layout. It follows the training captions, which name objects in reading order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from microforge.data.order import step_rng
from microforge.data.world.caption_reader import CATEGORY_OF, any_of, read_caption, seen_prompt
from microforge.data.world.captions import JOINTS, RELATION_WORDS, Prompt, canonical_prompt, caption
from microforge.data.world.scenes import choice, relation_is_held_out, sample_scene
from microforge.streams import StepStream

#: Relations in which the object that is named first comes first in reading order, the preferred one first.
READING_RELATIONS = ("left of", "above")
#: Share of ambiguous prompts; the others are explicit and stay as they are.
REWRITTEN_SHARE = 0.6
#: Kinds of scenes that ambiguous prompts are about.
AMBIGUOUS_KINDS = ("two", "attribute")
#: Kinds of scenes that explicit prompts are about, with their shares.
_EXPLICIT_KINDS = {"counting": 0.45, "position": 0.25, "single": 0.30}
_STATED_RELATION = re.compile(
    rf" (?:is )?(?:{any_of(word for name in READING_RELATIONS for word in RELATION_WORDS[name])}) (?=an? )"
)


@dataclass(frozen=True)
class PromptRewrite:
    """A ``prompt`` as a user types it, and its ``rewritten`` form; both have the same text where it is explicit."""

    prompt: str
    rewritten: Prompt


def sample_rewrites(count: int, seed: int) -> list[PromptRewrite]:
    """Sample ``count`` prompts with their rewritten forms, ``REWRITTEN_SHARE`` of them ambiguous.

    No prompt asks for a composition that is held out from training.
    """
    rng = step_rng(seed, StepStream.PROMPT_REWRITES)
    return [_ambiguous(rng) if rng.random() < REWRITTEN_SHARE else _explicit(rng) for _ in range(count)]


def reading_relation(first: str, second: str) -> str:
    """The relation between two shapes, named in this order, that a rewritten prompt states."""
    return next(name for name in READING_RELATIONS if not relation_is_held_out(name, first, second))


def _ambiguous(rng: np.random.Generator) -> PromptRewrite:
    """Half of these prompts use canonical words, half the words of training captions."""
    kind = choice(rng, AMBIGUOUS_KINDS)
    if rng.random() < 0.5:
        prompt = canonical_prompt(CATEGORY_OF[kind], rng)
        first, second = (item.shape for item in prompt.objects)
        relation = reading_relation(first, second)
        text = prompt.text.replace(" and ", f" {relation} ", 1)
        return PromptRewrite(prompt.text, replace(prompt, text=text, relation=relation))
    scene = sample_scene(rng, kind)
    first, second = (item.shape for item in scene.objects)
    explicit_scene = replace(scene, relation=reading_relation(first, second))
    while True:
        text = caption(explicit_scene, rng)
        if _STATED_RELATION.search(
            text
        ):  # skip mirrored relations, and captions with a place for each object
            prompt_text = _STATED_RELATION.sub(choice(rng, JOINTS), text, count=1)
            return PromptRewrite(prompt_text, read_caption(text))


def _explicit(rng: np.random.Generator) -> PromptRewrite:
    kind = str(rng.choice(list(_EXPLICIT_KINDS), p=list(_EXPLICIT_KINDS.values())))
    prompt = seen_prompt(kind, rng)
    return PromptRewrite(prompt.text, prompt)
