"""GenEval's prompts (arXiv 2310.11513) in the sticker domain, judged by our detector; the result is not GenEval.

The metadata file is GenEval's own ``evaluation_metadata.jsonl``. A prompt is asked when the sticker set knows every class in
it; the others are listed with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microforge.data.stickers.scene_painting import paint_scenes
from microforge.data.stickers.scenes import StickerObject, make_sticker
from microforge.data.stickers.world import StickerWorld
from microforge.data.world.captions import Prompt
from microforge.data.world.scenes import COLORS, Scene
from microforge.errors import DataError
from microforge.evaluation.generation import RoundTrip, to_uint8_images
from microforge.evaluation.scores import CategoryScores, accuracy_of
from microforge_benchmarks.stickers.detector import DetectedSticker, StickerDetector

TITLE = "GenEval prompts, sticker domain, our detector"
#: Class -> names of the set that show it beside its own name and "NAME face".
ALIASES: Mapping[str, tuple[str, ...]] = {
    "airplane": ("small airplane",), "apple": ("red apple", "green apple"), "boat": ("sailboat", "motor boat", "speedboat"),
    "book": ("closed book", "green book", "blue book", "orange book", "open book"), "bowl": ("bowl with spoon",),
    "cake": ("birthday cake", "shortcake"), "car": ("automobile",), "cell phone": ("mobile phone",),
    "clock": ("mantelpiece clock",), "computer keyboard": ("keyboard",), "couch": ("couch and lamp",),
    "cup": ("teacup without handle", "hot beverage"), "donut": ("doughnut",), "frisbee": ("flying disc",),
    "knife": ("kitchen knife",), "orange": ("tangerine",), "sports ball": ("soccer ball",), "tie": ("necktie",),
    "traffic light": ("horizontal traffic light", "vertical traffic light"), "train": ("locomotive",),
    "truck": ("delivery truck",), "tv": ("television",), "sheep": ("ewe",),
}  # fmt: skip
_PREFIX = "a photo of "
_POSITIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True)
class RequestedClass:
    """What a prompt asks of one class; ``position`` is a relation to the object ``anchor`` of the prompt."""

    name: str
    count: int
    color: str | None = None
    position: str | None = None
    anchor: int = 0


@dataclass(frozen=True)
class GenEvalPrompt:
    """A prompt of the file; ``too_many`` are counts of classes that it rules out."""

    text: str
    category: str
    include: tuple[RequestedClass, ...]
    too_many: Mapping[str, int]


@dataclass(frozen=True)
class GenEvalReport:
    """Scores by category, with the detector's ceilings, and the prompts that were left out, by reason."""

    title: str
    model: str
    asked: int
    total: int
    scores: CategoryScores
    true_renders: CategoryScores
    vae_round_trip: CategoryScores | None
    left_out: Mapping[str, int]


def read_prompts(path: Path) -> tuple[GenEvalPrompt, ...]:
    """The prompts of GenEval's metadata file.

    Raises:
        DataError: when it cannot be read, or a line is none of GenEval's; names the line.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); allowed: GenEval's evaluation_metadata.jsonl"
        ) from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(json.loads(line)))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}, line {number} is no GenEval prompt ({error!r})") from None
    if not prompts:
        raise DataError(f"{path} holds no prompt")
    return tuple(prompts)


def _prompt(row: dict[str, object]) -> GenEvalPrompt:
    include: list[dict[str, object]] = row["include"]  # type: ignore[assignment]
    exclude: list[dict[str, object]] = row.get("exclude", [])  # type: ignore[assignment]
    classes = []
    for item in include:
        place: list[object] = item.get("position", [None, 0])  # type: ignore[assignment]
        color = item.get("color")
        classes.append(RequestedClass(str(item["class"]), int(str(item["count"])), None if color is None else str(color), None if place[0] is None else str(place[0]), int(str(place[1]))))  # fmt: skip
    limits = {str(item["class"]): int(str(item["count"])) for item in exclude}
    return GenEvalPrompt(str(row["prompt"]).removeprefix(_PREFIX), str(row["tag"]), tuple(classes), limits)


def known_classes(world: StickerWorld, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Class -> the subjects of the set that show it, for the classes that have one."""
    by_name: dict[str, list[str]] = {}
    for subject, styles in world.rows.items():
        for name in world.stickers[next(iter(styles.values()))].names.get("en", ()):
            by_name.setdefault(name.lower(), []).append(subject)
    known = {}
    for name in names:
        wanted = (name, f"{name} face", *ALIASES.get(name, ()))
        subjects = tuple(dict.fromkeys(item for text in wanted for item in by_name.get(text, ())))
        if subjects:
            known[name] = subjects
    return known


def split_prompts(
    prompts: Sequence[GenEvalPrompt], known: Mapping[str, tuple[str, ...]]
) -> tuple[list[GenEvalPrompt], dict[str, int]]:
    """The prompts that can be asked, and reason -> number of those that cannot."""
    asked, reasons = [], dict[str, int]()
    for prompt in prompts:
        missing = next((item.name for item in prompt.include if item.name not in known), None)
        odd = next((item.color for item in prompt.include if item.color and item.color not in COLORS), None)
        if missing is None and odd is None:
            asked.append(prompt)
            continue
        reason = f"no sticker shows a {missing}" if missing else f"no colour {odd}"
        reasons[reason] = reasons.get(reason, 0) + 1
    return asked, dict(sorted(reasons.items()))


def is_followed(
    prompt: GenEvalPrompt, objects: Sequence[DetectedSticker], detector: StickerDetector,
    known: Mapping[str, tuple[str, ...]],
) -> bool:  # fmt: skip
    """Whether every class is there as often, in the colour and at the place that the prompt asks for."""
    subjects = [detector.ranked_subjects(item.description, 1)[0] for item in objects]
    chosen: list[list[DetectedSticker]] = []
    for wanted in prompt.include:
        matches = [item for item, name in zip(objects, subjects, strict=True) if name in known[wanted.name]]
        if len(matches) >= prompt.too_many.get(wanted.name, len(objects) + 1):
            return False
        if wanted.color is not None:
            matches = [item for item in matches if item.color == wanted.color]
        if wanted.position is not None:
            anchors = chosen[wanted.anchor]
            matches = [
                item for item in matches if any(_holds(wanted.position, item, other) for other in anchors)
            ]
        if len(matches) < wanted.count:
            return False
        chosen.append(matches)
    return True


def _holds(position: str, item: DetectedSticker, anchor: DetectedSticker) -> bool:
    across, down = item.x - anchor.x, item.y - anchor.y
    if position not in _POSITIONS:
        raise DataError(f"unknown position {position!r}; allowed: {', '.join(_POSITIONS)}")
    distance = {"left of": -across, "right of": across, "above": -down, "below": down}[position]
    return distance > 0.1


def true_images(
    prompts: Sequence[GenEvalPrompt], world: StickerWorld, known: Mapping[str, tuple[str, ...]],
    size: tuple[int, int], seed: int, round_trip: RoundTrip | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """Images (B, H, W, 3) that show what the prompts ask for."""
    scenes = [
        _scene(prompt, world, known, np.random.default_rng((seed, index)))
        for index, prompt in enumerate(prompts)
    ]
    images = paint_scenes(scenes, world.store, size)
    return to_uint8_images(images if round_trip is None else round_trip(images))


def _scene(
    prompt: GenEvalPrompt, world: StickerWorld, known: Mapping[str, tuple[str, ...]], rng: np.random.Generator
) -> Scene:
    wanted = [item for item in prompt.include for _ in range(item.count)]
    centres, radius = _places(
        len(wanted), next((item.position for item in prompt.include if item.position), None)
    )
    objects: list[StickerObject] = []
    for item, centre in zip(wanted, centres, strict=True):
        rows = [row for subject in known[item.name] for row in world.rows[subject].values()]
        if item.color is not None:
            natural = [row for row in rows if world.natural_color(row) == item.color]
            rows = natural or [row for row in rows if item.color in world.colors(row)] or rows
        row = int(rng.choice(rows))
        color = item.color if item.color in world.colors(row) else None
        objects.append(make_sticker(world, rng, row, color, "medium", centre, radius))
    return Scene("white", COLORS["white"], tuple(objects), "two", None)


def _places(count: int, position: str | None) -> tuple[list[tuple[float, float]], float]:
    """Centres (x, y) and the radius of ``count`` objects; the second one stands at ``position`` of the first."""
    if count == 1:
        return [(0.5, 0.5)], 0.36
    pairs = {
        "left of": [(0.74, 0.5), (0.26, 0.5)], "right of": [(0.26, 0.5), (0.74, 0.5)],
        "above": [(0.5, 0.74), (0.5, 0.26)], "below": [(0.5, 0.26), (0.5, 0.74)],
    }  # fmt: skip
    if count == 2:
        return pairs[position or "right of"], 0.2
    return [(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)][:count], 0.18


def scored(
    prompts: Sequence[GenEvalPrompt], images: Sequence[NDArray[np.uint8]], detector: StickerDetector,
    known: Mapping[str, tuple[str, ...]],
) -> CategoryScores:  # fmt: skip
    """Accuracy over one image (H, W, 3) per prompt; ``overall`` counts prompts, not categories."""
    results = [
        is_followed(prompt, detector.objects(image), detector, known)
        for prompt, image in zip(prompts, images, strict=True)
    ]
    categories = dict.fromkeys(prompt.category for prompt in prompts)
    return CategoryScores(
        accuracy_of(results),
        {
            name: accuracy_of(
                [hit for hit, prompt in zip(results, prompts, strict=True) if prompt.category == name]
            )
            for name in categories
        },
    )


def as_prompt(prompt: GenEvalPrompt) -> Prompt:
    """The prompt as image generators take it."""
    return Prompt(prompt.text, prompt.category, None, (), None, None, False)
