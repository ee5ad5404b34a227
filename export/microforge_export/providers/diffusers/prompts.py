"""Prompts of the kind that people type: to calibrate models that come without their own."""

from __future__ import annotations

import itertools

_SUBJECTS = (
    "an astronaut riding a horse", "a red apple on a wooden table", "a small dog in the snow", "an old lighthouse by the sea",
    "a bowl of ramen with an egg", "a city street at night in the rain", "a portrait of a woman with curly hair", "a green vintage car",
    "two cats asleep on a sofa", "a castle on a hill at sunset", "a cup of coffee next to a book", "a robot watering flowers",
    "mountains behind a calm lake", "a child flying a kite", "a bowl of fruit", "a steam train crossing a bridge",
)  # fmt: skip
_STYLES = (
    "a photograph of {}",
    "an oil painting of {}",
    "{}, digital art",
    "{}, pencil drawing",
    "a close-up photo of {}",
    "{}",
)


def common_prompts(count: int, seed: int) -> tuple[str, ...]:
    """``count`` prompts; another ``seed`` starts elsewhere in the same list."""
    pairs = [style.format(subject) for style in _STYLES for subject in _SUBJECTS]
    start = (seed * 7) % len(pairs)
    return tuple(itertools.islice(itertools.cycle(pairs[start:] + pairs[:start]), count))
