"""``--data``: the accepted names, and the fixed images of the built-in world."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from microforge.data.files.image_source import Augmentation, PhotoSource
from microforge.data.image_source import ImageSource
from microforge.data.open import open_source
from microforge.data.order import PART
from microforge.data.world import image_source as source_module
from microforge.data.world.captions import caption
from microforge.data.world.image_source import SceneSource
from microforge.data.world.renderer import render
from microforge.data.world.scenes import sample_scene
from microforge.errors import DataError, SpecError
from microforge.streams import FixedSeed, StepStream

SIZE = (32, 64)


def _open(data: str | Path, tmp_path: Path, augmentation: Augmentation | None = None) -> ImageSource:
    return open_source(str(data), tmp_path / "cache", Console(quiet=True), augmentation)


def _photo(folder: Path, name: str = "a") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), "red").save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(f"a photo of {name}", "utf-8")
    return folder


def _shard(path: Path) -> Path:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), "blue").save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, data in (("s.png", stream.getvalue()), ("s.txt", b"a photo of s")):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    return path


def test_scene_images_are_those_of_the_step_generator() -> None:
    rng = np.random.default_rng([5, 9])
    expected = render([sample_scene(rng) for _ in range(4)], *SIZE)
    assert torch.equal(SceneSource().images(5, 9, 4, SIZE, "cpu"), expected)


def test_scene_crops_hold_an_objects_centre_and_come_from_the_same_scenes() -> None:
    rng = np.random.default_rng([5, 9])
    scenes = [sample_scene(rng) for _ in range(4)]
    whole = render(scenes, *SIZE)
    crops = SceneSource().images(5, 9, 4, SIZE, "cpu", crop=(16, 16))
    for image, scene, crop in zip(whole, scenes, crops, strict=True):
        item = scene.objects[int(rng.integers(len(scene.objects)))]
        top = int(np.clip(item.y * 32 - rng.uniform(0.0, 16), 0, 16))
        left = int(np.clip(item.x * 64 - rng.uniform(0.0, 16), 0, 48))
        assert torch.equal(crop, image[:, top : top + 16, left : left + 16])


def test_scene_rows_are_those_of_the_whole_batch() -> None:
    source = SceneSource()
    for crop in (None, (16, 16)):
        whole = source.images(1, 2, 6, SIZE, "cpu", crop)
        piece = source.images(1, 2, 6, SIZE, "cpu", crop, slice(2, 4))
        assert torch.allclose(piece, whole[2:4], atol=1e-5)


def test_scene_examples_are_those_of_the_cache_stream() -> None:
    source = SceneSource()
    plan = source.plan(PART + 3, 2, 11)
    assert plan.parts == 2 and plan.images == PART + 3
    rng = np.random.default_rng([11, StepStream.LATENT_CACHE + 1])
    scenes = [sample_scene(rng) for _ in range(3)]
    texts = [tuple(caption(scene, rng) for _ in range(2)) for scene in scenes]
    [(images, captions)] = list(source.examples(plan, 1, SIZE, "cpu"))
    assert torch.equal(images, render(scenes, *SIZE)) and list(captions) == texts


def test_scene_sheet_and_statistics_are_fixed_and_apart_from_training() -> None:
    source = SceneSource()
    sheet = source.sheet(8, SIZE, "cpu")
    assert torch.equal(sheet, source.images(FixedSeed.UNSEEN_SCENES, 0, 8, SIZE, "cpu"))
    batches = list(source.statistics(128, SIZE, "cpu"))
    assert [len(batch) for batch in batches] == [64, 64] and not torch.equal(*batches)
    assert source.skipped == () and len(source.prompts(12)) == 12


def test_scene_fingerprint_follows_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SceneSource().fingerprint
    assert SceneSource().fingerprint == before
    monkeypatch.setattr(source_module, "caption", lambda scene, rng: "a thing")
    assert SceneSource().fingerprint != before


def test_open_source_distinguishes_folders_shards_and_scenes(tmp_path: Path) -> None:
    assert isinstance(_open("scenes", tmp_path), SceneSource)
    shard = _shard(tmp_path / "shards" / "0.tar")
    _shard(tmp_path / "shards" / "1.tar")
    for data, captions in (
        (_photo(tmp_path / "photos"), ("a photo of a",)),
        (shard, ("a photo of s",)),
        (tmp_path / "shards", ("a photo of s",)),
        (f"{tmp_path}/shards/{{0..1}}.tar", ("a photo of s",)),
        (f"{tmp_path}/shards/*.tar", ("a photo of s",)),
    ):
        source = _open(data, tmp_path)
        assert isinstance(source, PhotoSource) and source.prompts(12) == captions
        assert source.images(0, 0, 2, SIZE, "cpu").shape == (2, 3, *SIZE)


def test_open_source_reads_the_images_of_a_folder_that_also_holds_a_tar(tmp_path: Path) -> None:
    folder = _photo(tmp_path / "mixed")
    _shard(folder / "0.tar")
    assert _open(folder, tmp_path).prompts(12) == ("a photo of a",)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("nowhere", r"--data is 'nowhere', which does not exist; allowed: scenes.*folder of images"),
        ("empty", "empty holds no image"),
        ("note.txt", "note.txt hold no image with a caption"),
        ("no-{0..1}.tar", r"no-0\.tar does not exist"),
        ("https://example.com/x.tar", "a URL, which is not read; download it first"),
        ("", "does not exist"),
        ("nul\0", "does not exist"),
    ],
)
def test_open_source_reports_errors_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(DataError, match=says) as caught:
        _open(data, tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "note.txt"]


def test_open_source_refuses_to_mirror_scenes(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="flip and random_crop"):
        _open("scenes", tmp_path, Augmentation(flip=True))
    assert isinstance(_open("scenes", tmp_path, Augmentation()), SceneSource)
