"""The latent cache: built once per encoder and data set, resumed after a kill, never half written."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from microforge.data.order import PART, ExamplePlan, Examples
from microforge.data.pixels import from_uint8, to_uint8
from microforge.data.skipped import Skipped
from microforge.data.world.image_source import SceneSource
from microforge.errors import DataError
from microforge.spec import VAESpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.encoder import LatentEncoder, encoder_sha256
from microforge.training.caches.latents import LatentCache, load_or_build
from microforge.vae import MicroForgeVAE

SIZE = (32, 32)
LENGTH = 12
TOKENIZER = PromptTokenizer.load()
SPEC = VAESpec((8, 8, 8, 8), 4, (1, 1, 1, 1), (1, 1, 1, 1), 1, latent_mean=(0.5,) * 4, latent_std=(2.0,) * 4)


@pytest.fixture(scope="module")
def vae() -> MicroForgeVAE:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return MicroForgeVAE(SPEC).eval()


class _Greys(SceneSource):
    """Grey images whose brightness is their number; ``parts`` lists the parts that were requested."""

    def __init__(self, content: str = "greys", broken_part: int = -1, empty: bool = False) -> None:
        self.content, self.broken_part, self.empty = content, broken_part, empty
        self.parts: list[int] = []

    @property
    def fingerprint(self) -> str:
        return self.content

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        self.parts.append(part)
        for first in range(part * PART, min((part + 1) * PART, plan.images) if not self.empty else 0, 512):
            if part == self.broken_part:
                raise KeyboardInterrupt
            numbers = torch.arange(first, min(first + 512, plan.images))
            images = (numbers / plan.images).reshape(-1, 1, 1, 1).expand(-1, 3, *size)
            yield (
                images,
                [tuple(f"grey {number} of kind {i}" for i in range(plan.captions)) for number in numbers],
            )


def _encoder(vae: MicroForgeVAE) -> LatentEncoder:
    return LatentEncoder(vae, TOKENIZER, SIZE, LENGTH, "cpu")


def _cache(
    path: Path, vae: MicroForgeVAE, source: SceneSource, images: int = 6, captions: int = 2
) -> LatentCache:
    plan = source.plan(images, captions, 0)
    return load_or_build(path, _encoder(vae), source, plan, Console(quiet=True))


def test_cache_holds_normalised_latents_beside_their_captions(tmp_path: Path, vae: MicroForgeVAE) -> None:
    source = _Greys()
    cache = _cache(tmp_path / "latents", vae, source)
    [(images, captions)] = list(source.examples(source.plan(6, 2, 0), 0, SIZE, "cpu"))
    with torch.no_grad():
        expected = vae.normalize(vae.encode(from_uint8(to_uint8(images))).mean).half()
    assert torch.equal(cache.latents, expected) and cache.latents.dtype == torch.float16
    assert cache.captions.shape == (6, 2, LENGTH) and cache.captions.dtype == torch.int16
    for row, texts in zip(cache.captions, captions, strict=True):
        for ids, text in zip(row, texts, strict=True):
            assert ids.tolist() == TOKENIZER.encode(text, "generate", LENGTH).ids.tolist()


def test_cache_is_read_again_and_made_anew_when_anything_it_depends_on_changes(
    tmp_path: Path, vae: MicroForgeVAE
) -> None:
    path = tmp_path / "latents"
    first = _cache(path, vae, _Greys())
    again = _Greys()
    assert torch.equal(_cache(path, vae, again).latents, first.latents) and again.parts == []
    other = MicroForgeVAE(replace(SPEC, latent_std=(1.0,) * 4)).eval()
    assert encoder_sha256(other) != encoder_sha256(vae)
    for encoder, content, images, captions in (
        (vae, "others", 6, 2), (vae, "greys", 7, 2), (vae, "greys", 6, 1), (other, "greys", 6, 2),
    ):  # fmt: skip
        source = _Greys(content)
        _cache(path, encoder, source, images, captions)
        assert source.parts == [0]


def test_a_killed_build_leaves_no_cache_and_continues_where_it_stopped(
    tmp_path: Path, vae: MicroForgeVAE
) -> None:
    path, count = tmp_path / "latents", 2 * PART + 9
    with pytest.raises(KeyboardInterrupt):
        _cache(path, vae, _Greys(broken_part=1), count)
    assert not path.exists()
    rest = _Greys()
    cache = _cache(path, vae, rest, count)
    assert rest.parts == [1, 2], "the first part was there"
    whole = _cache(tmp_path / "whole", vae, _Greys(), count)
    assert torch.equal(cache.latents, whole.latents) and torch.equal(cache.captions, whole.captions)
    assert path.read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["latents", "whole"]


def test_parts_of_another_data_set_are_not_used(tmp_path: Path, vae: MicroForgeVAE) -> None:
    path, count = tmp_path / "latents", PART + 1
    with pytest.raises(KeyboardInterrupt):
        _cache(path, vae, _Greys("old", broken_part=1), count)
    source = _Greys("new")
    _cache(path, vae, source, count)
    assert source.parts == [0, 1]


def test_a_damaged_cache_is_made_anew(tmp_path: Path, vae: MicroForgeVAE) -> None:
    path = tmp_path / "latents"
    whole = _cache(path, vae, _Greys())
    expected = whole.latents.clone()
    del whole
    data = path.read_bytes()
    for damaged in (data[:-5], data[:20], b"", b"\xff" * 64):
        path.write_bytes(damaged)
        assert torch.equal(_cache(path, vae, _Greys()).latents, expected)


def test_captions_that_are_too_long_are_cut_and_counted(tmp_path: Path, vae: MicroForgeVAE) -> None:
    class Long(_Greys):
        def examples(
            self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
        ) -> Iterator[Examples]:
            for images, captions in super().examples(plan, part, size, device):
                texts = [("short", "many words " * 20), *captions[1:]]
                yield images, texts

    stream = io.StringIO()
    source = Long()
    plan = source.plan(3, 2, 0)
    console = Console(file=stream, width=200)
    cache = load_or_build(tmp_path / "c", _encoder(vae), source, plan, console)
    assert "1 captions are longer than 12 tokens" in stream.getvalue()
    assert int((cache.captions[0, 1] != 0).sum()) == LENGTH


def test_a_source_without_a_usable_image_is_a_data_error(tmp_path: Path, vae: MicroForgeVAE) -> None:
    with pytest.raises(DataError, match="not one image of scenes"):
        _cache(tmp_path / "latents", vae, _Greys(empty=True))


def test_parts_may_hold_fewer_images_than_planned(tmp_path: Path, vae: MicroForgeVAE) -> None:
    class Gaps(_Greys):
        skipped = (Skipped("some", "broken"),)

        def examples(
            self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
        ) -> Iterator[Examples]:
            if part != 1:
                yield from super().examples(plan, part, size, device)

    count, stream = 2 * PART + 9, io.StringIO()
    cache = _cache(tmp_path / "latents", vae, Gaps(), count)
    assert len(cache.latents) == PART + 9 == len(cache.captions)
    plan = Gaps().plan(count, 2, 0)
    console = Console(file=stream, width=200)
    load_or_build(tmp_path / "latents", _encoder(vae), Gaps(), plan, console)
    assert f"{PART} of {count} images could not be used" in stream.getvalue()


def test_scenes_cache_is_that_of_the_scene_stream(tmp_path: Path, vae: MicroForgeVAE) -> None:
    source = SceneSource()
    cache = _cache(tmp_path / "latents", vae, source, 5, 3)
    [(images, _)] = list(source.examples(source.plan(5, 3, 0), 0, SIZE, "cpu"))
    expected: Tensor = vae.normalize(vae.encode(from_uint8(to_uint8(images))).mean).half()
    assert torch.equal(cache.latents, expected) and cache.captions.shape == (5, 3, LENGTH)
