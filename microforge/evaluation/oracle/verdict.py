"""Judges what the oracle found against what a prompt asked for, in the manner of GenEval (arXiv 2310.11513).

An image is correct when every asked object is there, the way it was asked for, and nothing else is: as in
GenEval a second red circle does not spoil "a red circle", but a blue star or an unreadable blob does.
Stated counts are exact, a stated background must match, and a stated relation or place must hold for the
objects' centres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from microforge.data.world.captions import Prompt, PromptObject
from microforge.data.world.scenes import PLACES, relation_holds
from microforge.evaluation.oracle.detector import DetectedObject, Detection

#: How far outside its region (share of the image) a centre may lie and still be "on the left".
PLACE_SLACK = 0.05
#: Facts of a verdict in the order of a report.
FACTS = ("shape", "color", "attribute", "count", "position", "background", "nothing_else")
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows its prompt, fact by fact; None where the prompt does not say.

    ``shape`` and ``color``: every asked shape, every asked colour is somewhere. ``attribute``: every asked
    colour is on its own shape. ``count``: the stated number, or at least one of each asked object.
    ``position``: the relation or the place holds. ``background``: it has the stated colour.
    ``nothing_else``: every object found was asked for. ``correct``: all of these. ``reason`` names the
    first that fails.
    """

    correct: bool
    shape: bool
    color: bool | None
    attribute: bool | None
    count: bool
    position: bool | None
    background: bool | None
    nothing_else: bool
    reason: str


def judge(prompt: Prompt, detection: Detection) -> Verdict:
    """Judge ``detection`` by the facts of ``prompt``."""
    found = detection.objects
    colored = [item for item in prompt.objects if item.color is not None]
    facts = {
        "shape": all(any(one.shape == item.shape for one in found) for item in prompt.objects),
        "color": _every(any(one.color == item.color for one in found) for item in colored),
        "attribute": _every(any(_matches(one, item) for one in found) for item in colored),
        "count": all(_count_holds(item, prompt, found) for item in prompt.objects),
        "position": _position_holds(prompt, found),
        "background": None if prompt.background is None else detection.background == prompt.background,
        "nothing_else": all(any(_matches(one, item) for item in prompt.objects) for one in found),
    }
    failed = [name for name in FACTS if facts[name] is False]
    return Verdict(
        correct=not failed,
        shape=facts["shape"] is True,
        color=facts["color"],
        attribute=facts["attribute"],
        count=facts["count"] is True,
        position=facts["position"],
        background=facts["background"],
        nothing_else=facts["nothing_else"] is True,
        reason=_reason(failed, detection),
    )


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, inside [0, 1]; (0, 1) when ``total`` is 0.

    Raises:
        ValueError: unless 0 <= successes <= total.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total}")
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # Rounding must not push the proportion itself out of its interval at 0 and at 1.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _every(facts: Iterable[bool]) -> bool | None:
    """Whether all hold, or None when there are none."""
    values = list(facts)
    return all(values) if values else None


def _matches(one: DetectedObject, asked: PromptObject) -> bool:
    return one.shape == asked.shape and asked.color in (None, one.color)


def _count_holds(asked: PromptObject, prompt: Prompt, found: Sequence[DetectedObject]) -> bool:
    """A stated count counts that shape in any colour: a wrong colour is another fact's fault."""
    if asked.count is not None:
        return sum(one.shape == asked.shape for one in found) == asked.count
    wanted = sum(other.shape == asked.shape for other in prompt.objects)
    return sum(one.shape == asked.shape for one in found) >= wanted


def _position_holds(prompt: Prompt, found: Sequence[DetectedObject]) -> bool | None:
    if prompt.relation is not None:
        first, second = prompt.objects[:2]
        return any(
            _matches(one, first) and _matches(other, second)
            and relation_holds(prompt.relation, (one.x, one.y), (other.x, other.y))
            for one in found for other in found if one is not other
        )  # fmt: skip
    if prompt.place is not None:
        return any(_matches(one, prompt.objects[0]) and in_place(prompt.place, one.x, one.y) for one in found)
    return None


def in_place(place: str, x: float, y: float) -> bool:
    """Whether a centre lies in the region of a place word, give or take ``PLACE_SLACK``.

    The regions are those of ``scenes.place_of``: the frame cut at 0.4 and 0.6 on both axes.
    """
    return all(
        low - PLACE_SLACK <= value <= high + PLACE_SLACK
        for value, (low, high) in zip((x, y), map(_third, PLACES[place]), strict=True)
    )


def _third(center: float) -> tuple[float, float]:
    return (0.0, 0.4) if center < 0.4 else (0.6, 1.0) if center > 0.6 else (0.4, 0.6)


def _reason(failed: Sequence[str], detection: Detection) -> str:
    if not failed:
        return "as asked"
    found = ", ".join(f"{one.color} {one.shape}" for one in detection.objects) or "nothing"
    return f"{failed[0].replace('_', ' ')}: found {found} on {detection.background}"
