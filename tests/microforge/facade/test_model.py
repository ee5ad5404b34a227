"""One method per job, the same for a checkpoint and a bundle."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import microforge
from microforge.errors import BundleError, DataError, PromptError, SpecError
from microforge.io.console import exit_code
from microforge.pipeline import MicroForgePipeline
from microforge_runtimes.cli import app

SOURCE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
MASK = np.zeros((50, 70), np.bool_)
MASK[10:40, 20:50] = True


def test_generate_equals_the_reference_pipeline(model: microforge.Model, editing_checkpoint: Path) -> None:
    expected = MicroForgePipeline.from_pretrained(editing_checkpoint).text2img("a red circle", seed=3)
    result = model.generate("a red circle", seed=3)
    pixels = (expected[0].permute(1, 2, 0).numpy() * 255.0).round()
    assert np.abs(result.array - pixels).max() <= 1
    assert (result.prompt, result.seed, result.steps, result.task) == ("a red circle", 3, 4, "generate")
    assert result.size == (64, 64) and result.seconds > 0


def test_every_job_gives_the_same_pixels_from_a_checkpoint_and_a_bundle(
    from_checkpoint: microforge.Model, from_bundle: microforge.Model
) -> None:
    results = [
        (
            model.edit(SOURCE, "make it red", seed=1),
            model.edit(SOURCE, "make it red", MASK, seed=1),
            model.inpaint(SOURCE, MASK, "a blue square", seed=1),
            model.super_resolve(SOURCE[:8, :8], seed=1),
        )
        for model in (from_checkpoint, from_bundle)
    ]
    for first, second in zip(*results, strict=True):
        assert np.abs(first.array.astype(int) - second.array).max() <= 1
    for first, second in itertools.combinations(results[0][:3], 2):
        assert not np.array_equal(first.array, second.array), "the jobs differ"


def test_edit_with_a_mask_and_inpaint_preserve_every_other_pixel(model: microforge.Model) -> None:
    for result in (model.edit(SOURCE, "make it red", MASK), model.inpaint(SOURCE, MASK)):
        assert np.array_equal(result.array[~MASK], SOURCE[~MASK])
        assert not np.array_equal(result.array[MASK], SOURCE[MASK])


def test_super_resolve_multiplies_the_size_and_counts_steps_through_all_tiles(
    model: microforge.Model,
) -> None:
    seen: list[microforge.Step] = []
    result = model.super_resolve(SOURCE[:20, :24], factor=4, callback=seen.append)
    assert result.size == (80, 96) and result.task == "super-resolve"
    assert [step.index for step in seen] == list(range(1, seen[-1].steps + 1))
    assert len(seen) > result.steps, "more than one tile"


def test_vary_equals_the_reference_pipeline_and_at_full_strength_it_is_generate(
    model: microforge.Model, editing_checkpoint: Path
) -> None:
    source = model.generate("a red circle", seed=4)
    pipeline = MicroForgePipeline.from_pretrained(editing_checkpoint)
    image = torch.from_numpy(source.array).permute(2, 0, 1)[None] / 255.0
    for strength in (0.25, 0.5):
        expected = pipeline.vary(image, "a star", strength, seed=5)[0].permute(1, 2, 0).numpy() * 255.0
        result = model.vary(source, "a star", strength=strength, seed=5)
        assert np.abs(result.array - expected.round()).max() <= 1
    whole = model.vary(source, "a star", strength=1.0, seed=5)
    assert np.array_equal(whole.array, model.generate("a star", seed=5).array)


def test_vary_with_a_mask_preserves_every_other_pixel(model: microforge.Model) -> None:
    result = model.vary(SOURCE, "a star", MASK)
    assert np.array_equal(result.array[~MASK], SOURCE[~MASK]) and result.task == "vary"
    with pytest.raises(SpecError, match="strength is 2; allowed: above 0, at most 1"):
        model.vary(SOURCE, strength=2)


def test_steps_and_seed_mean_the_same_in_every_job(model: microforge.Model) -> None:
    jobs: tuple[Callable[..., microforge.GeneratedImage], ...] = (
        lambda **options: model.generate("a star", **options),
        lambda **options: model.edit(SOURCE, "a star", **options),
        lambda **options: model.inpaint(SOURCE, MASK, **options),
        lambda **options: model.super_resolve(SOURCE[:8, :8], **options),
    )
    for job in jobs:
        first, second = job(seed=1, steps=2), job(seed=2, steps=2)
        assert (first.steps, first.seed, second.seed) == (2, 1, 2)
        assert not np.array_equal(first.array, second.array)


@pytest.mark.parametrize("size", [64, "64", "64x64", (64, 64)])
def test_a_size_is_a_number_a_text_or_a_pair(model: microforge.Model, size: microforge.Size) -> None:
    assert model.generate("a star", size=size).size == (64, 64)


def test_a_checkpoint_generates_at_other_sizes(from_checkpoint: microforge.Model) -> None:
    assert from_checkpoint.generate("a star", size=(32, 96)).size == (32, 96)


def test_a_result_is_a_source_image(model: microforge.Model) -> None:
    first = model.generate("a star")
    assert model.edit(first, "make it red", seed=1).size == first.size


def test_a_long_prompt_warns_once_and_says_so_in_the_result(model: microforge.Model) -> None:
    with pytest.warns(UserWarning, match="longer than 16 tokens") as caught:
        result = model.generate("a red circle " * 20)
    assert result.truncated and len(caught) == 1
    assert caught[0].filename == __file__, "it points to the caller"


def test_what_is_not_allowed_is_refused_by_name(model: microforge.Model) -> None:
    with pytest.raises(PromptError, match="empty"):
        model.generate(" ")
    with pytest.raises(PromptError, match="empty"):
        model.edit(SOURCE, "")
    with pytest.raises(SpecError, match="factor is 3; allowed: 2, 4"):
        model.super_resolve(SOURCE, factor=3)
    with pytest.raises(SpecError, match="seed is -1"):
        model.generate("a star", seed=-1)
    with pytest.raises(SpecError, match=r"composite .* mask"):
        model.edit(SOURCE, "a star", MASK, composite=True)
    with pytest.raises(DataError, match="mask has 50x50 pixels, the source 70x50"):
        model.inpaint(SOURCE, MASK[:, :50])
    with pytest.raises(SpecError, match="multiple of 32"):
        model.generate("a star", size=100)


def test_a_model_without_a_task_names_those_it_has(checkpoint: Path) -> None:
    with (
        microforge.load(checkpoint) as model,
        pytest.raises(BundleError, match="cannot edit; its tasks: generate"),
    ):
        model.edit(SOURCE, "make it red")


def test_a_closed_model_loads_its_networks_again(editing_checkpoint: Path, editing_bundle: Path) -> None:
    for path in (editing_checkpoint, editing_bundle):
        model = microforge.load(path)
        first = model.generate("a star")
        model.close()
        assert np.array_equal(model.generate("a star").array, first.array)
        model.close()


def test_mf_generate_makes_a_saved_result_again(
    from_bundle: microforge.Model, editing_bundle: Path, tmp_path: Path
) -> None:
    source = from_bundle.generate("a red circle", seed=1).save(tmp_path / "source.png")
    first = from_bundle.edit(source, "make it red", seed=5, steps=2)
    first.save(tmp_path / "first.png")
    words = [
        editing_bundle,
        "--like",
        tmp_path / "first.png",
        "--source",
        source,
        "--out",
        tmp_path / "again.png",
    ]
    assert exit_code(app, list(map(str, words))) == 0
    with Image.open(tmp_path / "again.png") as again:
        assert np.array_equal(np.asarray(again), first.array)


def test_what_was_passed_over_in_a_source_image_is_a_warning(
    from_bundle: microforge.Model, tmp_path: Path
) -> None:
    Image.fromarray(SOURCE).save(tmp_path / "odd.png", icc_profile=b"no profile")
    with pytest.warns(UserWarning, match="colour profile cannot be used") as caught:
        from_bundle.edit(tmp_path / "odd.png", "make it red", steps=1)
    assert caught[0].filename == __file__
