"""Scenes, captions and edits of stickers: true, in every language, and nothing held out where training looks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from microforge.data.stickers import world as world_module
from microforge.data.stickers.captions import (
    LANGUAGE_SHARES,
    canonical_caption,
    draw_language,
    sticker_caption,
)
from microforge.data.stickers.catalogue import read_catalogue
from microforge.data.stickers.edit_triples import StickerTriples
from microforge.data.stickers.edits import OPERATIONS, sample_sticker_edit
from microforge.data.stickers.grammars import GRAMMARS
from microforge.data.stickers.image_source import StickerSource
from microforge.data.stickers.scene_painting import coverage, paint_scenes, sticker_mask
from microforge.data.stickers.scenes import (
    KINDS,
    SPLITS,
    StickerObject,
    held_out_splits,
    sample_sticker_scene,
)
from microforge.data.stickers.store import open_store
from microforge.data.stickers.tokenizer_corpus import sticker_tokenizer_texts
from microforge.data.stickers.world import StickerWorld
from microforge.data.world.captions import RELATION_WORDS
from microforge.data.world.scenes import MIRROR, is_clear, relation_holds
from microforge.errors import DataError

SIZE = (64, 64)


@pytest.fixture(scope="module")
def world(sprites: Path, tmp_path_factory: pytest.TempPathFactory) -> StickerWorld:
    stickers = read_catalogue(sprites)
    return StickerWorld(
        stickers, open_store(sprites, stickers, tmp_path_factory.mktemp("c"), Console(quiet=True))
    )


@pytest.fixture
def split_world(world: StickerWorld, monkeypatch: pytest.MonkeyPatch) -> StickerWorld:
    """One of each kind held out: a picture, a colour, a pair."""
    monkeypatch.setattr(world_module, "ENOUGH_TO_HOLD_OUT", 4)
    monkeypatch.setattr(
        world_module, "held_out_picture", lambda subject, style: (subject, style) == ("subject-1", "wide")
    )
    monkeypatch.setattr(
        world_module, "held_out_color", lambda subject, color: (subject, color) == ("subject-0", "blue")
    )
    monkeypatch.setattr(world_module, "held_out_pair", lambda *two: sorted(two) == ["subject-2", "subject-3"])
    return StickerWorld(world.stickers, world.store)


@pytest.mark.parametrize("kind", list(KINDS))
def test_objects_of_every_kind_lie_inside_and_apart(world: StickerWorld, kind: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        scene = sample_sticker_scene(world, rng, kind)
        expected = {"portrait": {1}, "single": {1}, "counting": {2, 3, 4}}.get(kind, {2})
        assert len(scene.objects) in expected and scene.kind == kind
        for index, item in enumerate(scene.objects):
            assert item.radius <= min(item.x, item.y, 1 - item.x, 1 - item.y) + 1e-9
            assert is_clear(item, scene.objects[:index])
        if scene.relation is not None:
            first, second = scene.objects
            assert relation_holds(scene.relation, (first.x, first.y), (second.x, second.y))
        if kind == "attribute":
            assert all(item.color for item in scene.objects)


def test_the_same_generator_gives_the_same_scene_and_caption(world: StickerWorld) -> None:
    def draw() -> tuple[object, str]:
        rng = np.random.default_rng(5)
        scene = sample_sticker_scene(world, rng)
        return scene, sticker_caption(world, scene, rng)

    assert draw() == draw()


def test_training_scenes_and_edits_hold_nothing_that_is_held_out(split_world: StickerWorld) -> None:
    rng = np.random.default_rng(2)
    for _ in range(150):
        assert held_out_splits(split_world, sample_sticker_scene(split_world, rng)) == set()
    for _ in range(60):
        edit = sample_sticker_edit(split_world, rng)
        assert held_out_splits(split_world, edit.source) == held_out_splits(split_world, edit.target) == set()


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_scenes_hold_that_split_and_no_other(split_world: StickerWorld, split: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(5):
        assert held_out_splits(split_world, sample_sticker_scene(split_world, rng, held_out=split)) == {split}


def test_unknown_kinds_splits_and_operations_and_sets_without_a_split_are_refused(
    world: StickerWorld,
) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="unknown kind of scene 'heap'; allowed: portrait"):
        sample_sticker_scene(world, rng, "heap")
    with pytest.raises(DataError, match="unknown split 'all'; allowed: style, color, pair"):
        sample_sticker_scene(world, rng, held_out="all")
    with pytest.raises(DataError, match="set is too small"):
        sample_sticker_scene(world, rng, held_out="style")
    with pytest.raises(DataError, match="unknown edit operation"):
        sample_sticker_edit(world, rng, "explode")


def test_stickers_are_painted_where_the_scene_says(world: StickerWorld) -> None:
    rng = np.random.default_rng(4)
    scenes = [sample_sticker_scene(world, rng, "two") for _ in range(8)]
    images = paint_scenes(scenes, world.store, SIZE, alpha=True)
    assert images.shape == (8, 4, *SIZE) and 0.0 <= float(images.min()) and float(images.max()) <= 1.0
    for image, scene in zip(images, scenes, strict=True):
        background = torch.tensor(scene.background_rgb)[:, None]
        covered = image[3] > 0
        assert torch.allclose(image[:3, ~covered], background.expand(3, int((~covered).sum())), atol=1e-5)
        for item in scene.objects:
            x, y = int(item.x * SIZE[1]), int(item.y * SIZE[0])
            assert float(sticker_mask(item, world.store, SIZE).max()) > 0.9
            if isinstance(item, StickerObject):
                assert image[3, y, x] > 0.9
                assert torch.allclose(image[:3, y, x], torch.tensor(item.rgb), atol=0.35)
    assert torch.equal(coverage(scenes, world.store, SIZE)[:, 0], images[:, 3])


def test_captions_say_relations_that_hold(world: StickerWorld) -> None:
    rng = np.random.default_rng(6)
    said = 0
    for _ in range(60):
        scene = sample_sticker_scene(world, rng, "position")
        text = sticker_caption(world, scene, rng, "en").lower()
        assert scene.relation is not None
        names = {name for name, words in RELATION_WORDS.items() if any(f" {word} " in text for word in words)}
        first = canonical_caption(world, scene).split(f" {scene.relation} ")[0].removeprefix("a ")
        held = {scene.relation} if text.find(first) < len(text) / 3 else {MIRROR[scene.relation]}
        said += bool(names & {scene.relation, MIRROR[scene.relation]})
        assert names <= {scene.relation, MIRROR[scene.relation], *held}
    assert said == 60


def test_canonical_captions_count_colour_and_relate(world: StickerWorld) -> None:
    rng = np.random.default_rng(7)
    counting = sample_sticker_scene(world, rng, "counting")
    number = {2: "two", 3: "three", 4: "four"}[len(counting.objects)]
    assert canonical_caption(world, counting).startswith(number + " ")
    attribute = sample_sticker_scene(world, rng, "attribute")
    text = canonical_caption(world, attribute, style=True)
    recolored = [
        item.color for item in attribute.objects if isinstance(item, StickerObject) and item.recolored
    ]
    assert all(color in text for color in recolored)


@pytest.mark.parametrize("language", list(GRAMMARS))
def test_every_kind_has_captions_and_every_operation_instructions(world: StickerWorld, language: str) -> None:
    rng = np.random.default_rng(8)
    texts = [
        sticker_caption(world, sample_sticker_scene(world, rng, kind), rng, language)
        for kind in KINDS
        for _ in range(6)
    ]
    edits = [
        sample_sticker_edit(world, rng, name, language).instruction for name in OPERATIONS for _ in range(3)
    ]
    for text in (*texts, *edits):
        assert text.strip() == text and text and "{" not in text and "  " not in text


def test_languages_are_drawn_with_their_shares() -> None:
    rng = np.random.default_rng(9)
    counts = Counter(draw_language(rng) for _ in range(4000))
    assert all(
        counts[name] / 4000 == pytest.approx(share, abs=0.03) for name, share in LANGUAGE_SHARES.items()
    )


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_an_edit_changes_what_it_names_and_nothing_else(world: StickerWorld, operation: str) -> None:
    rng = np.random.default_rng(10)
    for _ in range(6):
        edit = sample_sticker_edit(world, rng, operation)
        before, after = edit.source, edit.target
        assert before != after
        if operation == "background":
            assert before.objects == after.objects and before.background != after.background
            continue
        assert (before.background, before.background_rgb) == (after.background, after.background_rgb)
        unchanged = set(before.objects) & set(after.objects)
        if operation in ("move", "remove", "add"):
            assert len(unchanged) == max(len(before.objects), len(after.objects)) - 1
        else:
            assert [(item.x, item.y) for item in before.objects] == [
                (item.x, item.y) for item in after.objects
            ]


@pytest.mark.parametrize("task", ["edit", "inpaint", "super-resolve"])
def test_triples_of_rows_are_those_of_the_whole_batch(sprites: Path, tmp_path: Path, task: str) -> None:
    triples = StickerTriples(StickerSource(sprites, tmp_path, Console(quiet=True)))
    whole = triples.triples(task, 3, 4, 6, range(6), SIZE, "cpu")
    some = triples.triples(task, 3, 4, 6, [4, 1], SIZE, "cpu")
    assert whole.targets.shape == (6, 3, *SIZE)
    for place, row in enumerate((4, 1)):
        assert torch.equal(some.sources[place], whole.sources[row]) and some.texts[place] == whole.texts[row]
        assert torch.equal(some.targets[place], whole.targets[row])
    if task == "inpaint":
        assert whole.masks is not None and ((whole.masks == 0) | (whole.masks == 1)).all()
        outside = (whole.masks == 0).expand_as(whole.targets)
        assert torch.equal(whole.sources[outside], whole.targets[outside])


def test_the_tokenizer_corpus_is_fixed_and_holds_all_languages(
    world: StickerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microforge.data.stickers import tokenizer_corpus

    for name, count in (
        ("SHAPE_CAPTIONS", 4),
        ("SHAPE_EDITS", 2),
        ("CAPTIONS", 20),
        ("EDITS", 14),
        ("NAME_REPEATS", 1),
    ):
        monkeypatch.setattr(tokenizer_corpus, name, count)
    monkeypatch.setattr(tokenizer_corpus, "documentation_texts", lambda: iter(("Plain English.",)))
    texts = list(sticker_tokenizer_texts(world))
    assert texts == list(sticker_tokenizer_texts(world)) and texts[-1] == "Plain English."
    joined = " ".join(texts)
    assert all(
        word in joined
        for word in ("background", "sobre fondo", "sur fond", "Hintergrund", "em fundo", "背景")
    )
