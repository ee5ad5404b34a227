"""Prompts that leave open what lies where, each with a clear one that means no less.

"a star and a ring" may be drawn in any way that shows both, and a model that has not made up its mind draws one of
them twice. "a star left of a ring" settles it: things are named in reading order, as training's captions do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from microforge.data.order import step_rng
from microforge.data.world.caption_reader import CATEGORY_OF, one_of, read_caption, seen_prompt
from microforge.data.world.captions import JOINTS, RELATION_WORDS, Prompt, canonical_prompt, caption
from microforge.data.world.scenes import choice, relation_is_held_out, sample_scene
from microforge.streams import StepStream

#: Relations in which the first thing named comes first in reading order; the second where the first is held out.
READING = ("left of", "above")
#: Share of the prompts that are rewritten; the others mean what they say, and must not change.
SHARE = 0.6
#: Kinds of scene: of the rewritten prompts, and of the others with their shares.
VAGUE = ("two", "attribute")
_CLEAR = {"counting": 0.45, "position": 0.25, "single": 0.30}
_SAID = re.compile(
    rf" (?:is )?(?:{one_of(word for name in READING for word in RELATION_WORDS[name])}) (?=an? )"
)


@dataclass(frozen=True)
class Rewrite:
    """``asked``: a prompt as it is typed. ``meant``: what it is read as, with its facts; the same where it is clear."""

    asked: str
    meant: Prompt


def rewrites(count: int, seed: int) -> list[Rewrite]:
    """``count`` prompts of the built-in world, ``SHARE`` of them vague; never a composition that training does not show."""
    rng = step_rng(seed, StepStream.PROMPT_REWRITES)
    return [_vague(rng) if rng.random() < SHARE else _clear(rng) for _ in range(count)]


def reading_relation(first: str, second: str) -> str:
    """How the shape named ``first`` lies to the one named ``second``: the first of ``READING`` that is not held out."""
    return next(name for name in READING if not relation_is_held_out(name, first, second))


def _vague(rng: np.random.Generator) -> Rewrite:
    """Half in canonical words, half in those of training's captions."""
    kind = choice(rng, VAGUE)
    if rng.random() < 0.5:
        prompt = canonical_prompt(CATEGORY_OF[kind], rng)
        first, second = (one.shape for one in prompt.objects)
        relation = reading_relation(first, second)
        text = prompt.text.replace(" and ", f" {relation} ", 1)
        return Rewrite(prompt.text, replace(prompt, text=text, relation=relation))
    scene = sample_scene(rng, kind)
    first, second = (item.shape for item in scene.objects)
    stated = replace(scene, relation=reading_relation(first, second))
    while True:
        text = caption(stated, rng)
        if _SAID.search(text):  # neither the other way round nor with a place for each
            return Rewrite(_SAID.sub(choice(rng, JOINTS), text, count=1), read_caption(text))


def _clear(rng: np.random.Generator) -> Rewrite:
    prompt = seen_prompt(str(rng.choice(list(_CLEAR), p=list(_CLEAR.values()))), rng)
    return Rewrite(prompt.text, prompt)
