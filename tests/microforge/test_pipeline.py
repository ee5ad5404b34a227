from pathlib import Path

import pytest
import torch

from microforge.backbone import MicroForgeBackbone
from microforge.checkpoint import CONFIG, WEIGHTS, read_checkpoint
from microforge.errors import CheckpointError, PromptError, SpecError
from microforge.pipeline import MicroForgePipeline, SimpleTextEncoder
from microforge.planner import RecurrentLatentPlanner
from microforge.spec import TASKS
from microforge.vae import MicroForgeVAE


def test_quick_start_runs_verbatim() -> None:
    vae = MicroForgeVAE(config="tiny")
    backbone = MicroForgeBackbone(latent_channels=16, config="tiny")
    planner = RecurrentLatentPlanner(num_plan_tokens=16, dim=256, text_dim=768, latent_channels=16)
    text_enc = SimpleTextEncoder(embed_dim=768, num_layers=2)
    pipeline = MicroForgePipeline(vae, backbone, text_enc, planner)
    tokens = torch.randint(0, 8192, (1, 10))
    images = pipeline.text2img(tokens, height=256, width=256, num_steps=4)
    assert images.shape == (1, 3, 256, 256) and images.dtype == torch.float32
    assert 0.0 <= images.min() and images.max() <= 1.0


def test_text2img_is_the_same_for_the_same_seed_and_differs_for_another(pipeline: MicroForgePipeline) -> None:
    first = pipeline.text2img("a red circle", seed=5)
    assert torch.equal(first, pipeline.text2img("a red circle", seed=5))
    assert not torch.equal(first, pipeline.text2img("a red circle", seed=6))


def test_text2img_batch_equals_its_images_one_by_one(pipeline: MicroForgePipeline) -> None:
    both = pipeline.text2img(["a red circle", "two blue stars"], seed=3)
    alone = pipeline.text2img("two blue stars", seed=4)
    assert torch.allclose(both[1:], alone, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 64), (96, 32)])
def test_text2img_generates_non_square_images(pipeline: MicroForgePipeline, size: tuple[int, int]) -> None:
    assert pipeline.text2img("a star", *size).shape == (1, 3, *size)


def test_text2img_guidance_changes_the_image_and_one_is_off(pipeline: MicroForgePipeline) -> None:
    ids = torch.from_numpy(pipeline.tokenizer.encode("a red circle", max_length=16).ids)[None]  # type: ignore[union-attr]
    unguided = pipeline.text2img("a red circle", guidance=1.0)
    assert torch.allclose(unguided, pipeline.text2img(ids), atol=1e-5), "token ids are not guided by default"
    assert not torch.allclose(unguided, pipeline.text2img("a red circle", guidance=4.0), atol=1e-3)


def test_text2img_calls_back_after_every_step(pipeline: MicroForgePipeline) -> None:
    seen: list[tuple[int, int]] = []
    pipeline.text2img("a star", num_steps=3, callback=lambda step, steps, z: seen.append((step, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_text2img_refuses_sizes_prompts_and_steps_by_name(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="multiple of 32"):
        pipeline.text2img("a star", 100, 64)
    with pytest.raises(PromptError, match="empty"):
        pipeline.text2img("  ")
    with pytest.raises(SpecError, match="steps is 0"):
        pipeline.text2img("a star", num_steps=0)


def test_self_conditioning_reaches_the_image(pipeline: MicroForgePipeline) -> None:
    with_plan = pipeline.text2img("a star", guidance=1.0)
    pipeline.planner.self_conditioning = False
    try:
        without = pipeline.text2img("a star", guidance=1.0)
    finally:
        pipeline.planner.self_conditioning = True
    assert not torch.allclose(with_plan, without, atol=1e-4)


def test_edit_keeps_the_size_and_depends_on_source_and_prompt(pipeline: MicroForgePipeline) -> None:
    source = torch.rand(1, 3, 64, 96)
    edited = pipeline.edit(source, "make it blue")
    assert edited.shape == source.shape
    assert not torch.allclose(edited, pipeline.edit(1.0 - source, "make it blue"), atol=1e-3)
    assert not torch.allclose(edited, pipeline.edit(source, "add a star"), atol=1e-3)


def test_inpaint_leaves_every_pixel_outside_the_mask(pipeline: MicroForgePipeline) -> None:
    source = torch.rand(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10:50, 20:40] = 1.0
    filled = pipeline.inpaint(source, mask, "a red circle")
    outside = mask.expand_as(source) == 0
    assert torch.equal(filled[outside], source[outside])
    assert not torch.equal(filled, source)


def test_edit_with_a_mask_leaves_every_pixel_outside_it_and_sees_what_lies_in_it(
    pipeline: MicroForgePipeline,
) -> None:
    source, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 10:50, 20:40] = 1.0
    edited = pipeline.edit(source, "make it red", mask=mask)
    outside = mask.expand_as(source) == 0
    assert torch.equal(edited[outside], source[outside]) and not torch.equal(edited, source)
    other = torch.where(mask > 0, 1.0 - source, source)
    assert not torch.allclose(edited, pipeline.edit(other, "make it red", mask=mask), atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 64, 32), (1, 3, 64, 64), (2, 1, 64, 64), (64, 64)])
def test_inpaint_refuses_a_mask_of_another_size(pipeline: MicroForgePipeline, shape: tuple[int, ...]) -> None:
    with pytest.raises(SpecError, match=r"mask is .*; it must be \(1, 1, 64, 64\), as the source image"):
        pipeline.inpaint(torch.rand(1, 3, 64, 64), torch.ones(shape), "a star")


def test_tasks_with_a_source_work_with_the_empty_prompt(pipeline: MicroForgePipeline) -> None:
    source = torch.rand(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    assert pipeline.inpaint(source, mask).shape == pipeline.edit(source, None).shape == source.shape


def test_inpaint_refuses_an_empty_mask(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="all zero"):
        pipeline.inpaint(torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64), "a star")


@pytest.mark.parametrize("factor", [2, 4])
def test_super_resolve_multiplies_the_size(pipeline: MicroForgePipeline, factor: int) -> None:
    assert pipeline.super_resolve(torch.rand(1, 3, 32, 32), factor).shape == (1, 3, 32 * factor, 32 * factor)


def test_super_resolve_refuses_other_factors(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="allowed: 2, 4"):
        pipeline.super_resolve(torch.rand(1, 3, 32, 32), 3)


def test_save_and_load_give_the_same_images(pipeline: MicroForgePipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    loaded = MicroForgePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded.text2img("a red circle"), pipeline.text2img("a red circle"))
    assert loaded.spec == pipeline.spec


def test_save_writes_no_pickle(pipeline: MicroForgePipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip


def test_read_checkpoint_names_what_is_wrong(pipeline: MicroForgePipeline, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        read_checkpoint(folder)
    pipeline.save_pretrained(folder)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        read_checkpoint(folder)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="not JSON"):
        read_checkpoint(folder)
    (folder / CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        read_checkpoint(folder)


def test_read_checkpoint_refuses_an_unknown_key(pipeline: MicroForgePipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / CONFIG
    path.write_text(path.read_text("utf-8").replace('"native_size"', '"natve_size"'), "utf-8")
    with pytest.raises(CheckpointError, match="natve_size"):
        read_checkpoint(tmp_path / "model")


def test_a_checkpoint_of_the_edit_stage_knows_all_tasks(pipeline: MicroForgePipeline, tmp_path: Path) -> None:
    for stages, tasks in ((("vae", "flow"), ("generate",)), (("vae", "flow", "edit"), TASKS)):
        pipeline.stages = stages
        pipeline.save_pretrained(tmp_path / "model")
        assert read_checkpoint(tmp_path / "model").spec.tasks == tasks
        assert MicroForgePipeline.from_pretrained(tmp_path / "model").spec.tasks == tasks
    pipeline.stages = ()
