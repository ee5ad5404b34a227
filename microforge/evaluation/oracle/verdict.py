"""Verdicts on generated images in the manner of GenEval (arXiv 2310.11513): detected objects against the prompt.

An image is correct when it shows every object of the prompt as described, and no other object. As in GenEval, a second
red circle is allowed for "a red circle", but a blue star or an unreadable blob is not. Stated counts are exact, a
stated background must match, and a stated relation or region must hold for the objects' centres.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from microforge.data.world.captions import Prompt, PromptObject
from microforge.data.world.scenes import PLACES, relation_holds
from microforge.evaluation.oracle.detector import DetectedObject, Detection

#: Tolerance of regions: how far outside a centre may lie, as a share of the image.
PLACE_SLACK = 0.05
#: Facts of a verdict, in the order of reports.
FACTS = ("shape", "color", "attribute", "count", "position", "background", "nothing_else")
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows its prompt, by fact; a fact that the prompt does not state is None.

    Attributes:
        correct: whether no fact is False.
        shape: every shape of the prompt is somewhere in the image.
        color: every colour of the prompt is somewhere in the image.
        attribute: every colour is on its shape.
        count: the stated number of objects, or at least one of each.
        position: the stated relation or region holds.
        background: the background has the stated colour.
        nothing_else: every detected object is in the prompt.
        reason: the first fact that is False, and what was detected.
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
    """Judge the detected objects of an image by the facts of ``prompt``."""
    detected = detection.objects
    colored = [item for item in prompt.objects if item.color is not None]
    verdict = Verdict(
        correct=True,
        shape=all(any(one.shape == item.shape for one in detected) for item in prompt.objects),
        color=_all_stated(any(one.color == item.color for one in detected) for item in colored),
        attribute=_all_stated(any(_matches(one, item) for one in detected) for item in colored),
        count=all(_count_holds(item, prompt, detected) for item in prompt.objects),
        position=_position_holds(prompt, detected),
        background=None if prompt.background is None else detection.background == prompt.background,
        nothing_else=all(any(_matches(one, item) for item in prompt.objects) for one in detected),
        reason="",
    )
    failed = [name for name in FACTS if getattr(verdict, name) is False]
    return replace(verdict, correct=not failed, reason=_reason(failed, detection))


def wilson_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % confidence interval of a proportion; (0, 1) when ``total`` is 0.

    Raises:
        ValueError: when ``successes`` is not between 0 and ``total``.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"{successes} successes of {total}")
    if total == 0:
        return 0.0, 1.0
    share, z2 = successes / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # Rounding errors must not exclude the proportion itself at 0 and at 1.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _all_stated(facts: Iterable[bool]) -> bool | None:
    """Whether all facts hold; None when there are none."""
    values = list(facts)
    return all(values) if values else None


def _matches(one: DetectedObject, item: PromptObject) -> bool:
    return one.shape == item.shape and item.color in (None, one.color)


def _count_holds(item: PromptObject, prompt: Prompt, detected: Sequence[DetectedObject]) -> bool:
    """Count a shape in any colour: a wrong colour fails another fact."""
    count = sum(one.shape == item.shape for one in detected)
    if item.count is not None:
        return count == item.count
    return count >= sum(other.shape == item.shape for other in prompt.objects)


def _position_holds(prompt: Prompt, detected: Sequence[DetectedObject]) -> bool | None:
    if prompt.relation is not None:
        first, second = prompt.objects[:2]
        return any(
            _matches(one, first) and _matches(other, second)
            and relation_holds(prompt.relation, (one.x, one.y), (other.x, other.y))
            for one in detected for other in detected if one is not other
        )  # fmt: skip
    if prompt.place is not None:
        return any(
            _matches(one, prompt.objects[0]) and in_region(prompt.place, one.x, one.y) for one in detected
        )
    return None


def in_region(place: str, x: float, y: float) -> bool:
    """Whether a centre lies in a region of ``scenes.PLACES``, with a tolerance of ``PLACE_SLACK``.

    As in ``scenes.place_of``, regions are separated at 0.4 and 0.6 on both axes.
    """
    return all(
        low - PLACE_SLACK <= value <= high + PLACE_SLACK
        for value, (low, high) in zip((x, y), map(_third, PLACES[place]), strict=True)
    )


def _third(center: float) -> tuple[float, float]:
    return (0.0, 0.4) if center < 0.4 else (0.6, 1.0) if center > 0.6 else (0.4, 0.6)


def _reason(failed: Sequence[str], detection: Detection) -> str:
    if not failed:
        return "matches the prompt"
    return f"{failed[0].replace('_', ' ')}: found {detection.summary()}"
