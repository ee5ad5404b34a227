"""The reference model's promises: sizes, shapes, and what each part may and may not depend on."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from microforge.backbone import MicroForgeBackbone
from microforge.denoiser import build_backbone, build_planner
from microforge.errors import SpecError
from microforge.pipeline import MicroForgePipeline, SimpleTextEncoder
from microforge.planner import RecurrentLatentPlanner, plan_cosine, plan_similarity
from microforge.spec import PRESETS
from microforge.vae import MicroForgeVAE, group_mean, repeat_channels

#: SPEC section 2, in millions: VAE, backbone, planner, total.
PROMISED = {"tiny": (16, 8, 4, 28), "small": (77, 29, 8.9, 114), "base": (110, 71, 11.9, 193)}


def _millions(*modules: nn.Module) -> float:
    return sum(parameter.numel() for module in modules for parameter in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PROMISED)
@pytest.mark.parametrize("text_dim", [768, None])
def test_parameter_counts_are_within_five_percent(name: str, text_dim: int | None) -> None:
    spec = PRESETS[name]
    width = text_dim or spec.text_encoder.embed_dim
    with torch.device("meta"):
        vae = MicroForgeVAE(spec.vae)
        backbone = MicroForgeBackbone(spec.latent_channels, spec.backbone, width)
        plan = spec.planner
        planner = RecurrentLatentPlanner(
            plan.num_plan_tokens, plan.dim, width, spec.latent_channels, plan.depth
        )
    found = (_millions(vae), _millions(backbone), _millions(planner), _millions(vae, backbone, planner))
    for part, got, promised in zip(
        ("VAE", "backbone", "planner", "total"), found, PROMISED[name], strict=True
    ):
        assert abs(got - promised) <= 0.05 * promised, f"{name} {part}: {got:.2f}M, promised {promised}M"


def test_nano_stays_below_its_limits() -> None:
    spec = PRESETS["nano"]
    vae, backbone, planner = MicroForgeVAE("nano"), build_backbone(spec), build_planner(spec)
    assert _millions(vae) < 4 and _millions(backbone) < 2 and _millions(planner) < 1
    assert _millions(vae, backbone, planner) < 6


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


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 64), (160, 32)])
def test_vae_keeps_any_size_of_whole_cells(pipeline: MicroForgePipeline, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    latent = pipeline.vae.encode(image).mean
    assert latent.shape == (2, 4, size[0] // 32, size[1] // 32)
    assert pipeline.vae.decode(latent).shape == image.shape


def test_vae_refuses_a_size_of_broken_cells(pipeline: MicroForgePipeline) -> None:
    with pytest.raises(SpecError, match="64x96"):
        pipeline.vae.encode(torch.rand(1, 3, 64, 100))


def test_vae_normalisation_round_trips(pipeline: MicroForgePipeline) -> None:
    latent = torch.randn(2, 4, 3, 2)
    assert torch.allclose(pipeline.vae.denormalize(pipeline.vae.normalize(latent)), latent, atol=1e-6)


def test_vae_shortcuts_are_inverse() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert torch.allclose(group_mean(repeat_channels(x, 16), 4), x, atol=1e-6)


def test_text_encoder_ignores_padding(pipeline: MicroForgePipeline) -> None:
    ids = torch.randint(20, 8000, (1, 5))
    mask = torch.ones(1, 5)
    text, pooled = pipeline.text_encoder.encode(ids, mask)
    for filler in (0, 999):
        padded = torch.cat([ids, torch.full((1, 7), filler)], 1)
        padded_mask = torch.cat([mask, torch.zeros(1, 7)], 1)
        again, pooled_again = pipeline.text_encoder.encode(padded, padded_mask)
        assert torch.allclose(again[:, :5], text, atol=1e-5)
        assert torch.allclose(pooled_again, pooled, atol=1e-5)


def _denoiser_inputs(pipeline: MicroForgePipeline, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "z": draw(batch, 4, 2, 3), "t": torch.tensor([0.9, 0.3])[:batch], "text": draw(batch, 6, 32),
        "mask": torch.ones(batch, 6), "pooled": draw(batch, 32), "plan": draw(batch, 4, 64),
        "has_plan": torch.ones(batch),
    }  # fmt: skip


def test_denoiser_ignores_masked_text(pipeline: MicroForgePipeline) -> None:
    inputs = _denoiser_inputs(pipeline)
    inputs["mask"][:, 4:] = 0.0
    before, _ = pipeline.denoiser(**inputs)
    inputs["text"][:, 4:] = 50.0
    after, _ = pipeline.denoiser(**inputs)
    assert torch.allclose(before, after, atol=1e-5)


def test_denoiser_ignores_the_plan_of_a_first_step(pipeline: MicroForgePipeline) -> None:
    inputs = _denoiser_inputs(pipeline)
    inputs["has_plan"] = torch.zeros(2)
    before, plan = pipeline.denoiser(**inputs)
    inputs["plan"] = inputs["plan"] * -3.0
    after, plan_again = pipeline.denoiser(**inputs)
    assert torch.equal(before, after) and torch.equal(plan, plan_again)


@pytest.mark.parametrize("name", ["z", "t", "text", "pooled", "plan"])
def test_denoiser_depends_on_every_input(pipeline: MicroForgePipeline, name: str) -> None:
    inputs = _denoiser_inputs(pipeline)
    before, _ = pipeline.denoiser(**inputs)
    inputs[name] = 0.5 * inputs[name] + 0.2 * torch.rand(
        inputs[name].shape, generator=torch.Generator().manual_seed(4)
    )
    after, _ = pipeline.denoiser(**inputs)
    assert (before - after).abs().max() > 1e-5


def test_denoiser_treats_samples_of_a_batch_apart(pipeline: MicroForgePipeline) -> None:
    inputs = _denoiser_inputs(pipeline)
    together, _ = pipeline.denoiser(**inputs)
    alone, _ = pipeline.denoiser(**{name: value[1:] for name, value in inputs.items()})
    assert torch.allclose(together[1:], alone, atol=1e-5)


def test_editing_adds_no_parameters_and_reads_the_source(pipeline: MicroForgePipeline) -> None:
    inputs = _denoiser_inputs(pipeline)
    source = torch.randn(2, 4, 2, 3)
    edited, _ = pipeline.denoiser(**inputs, source=source)
    other, _ = pipeline.denoiser(**inputs, source=source + 1.0)
    plain, _ = pipeline.denoiser(**inputs)
    assert edited.shape == plain.shape
    assert (edited - other).abs().max() > 1e-4 and (edited - plain).abs().max() > 1e-4


def test_chunked_and_dense_backbones_agree(pipeline: MicroForgePipeline) -> None:
    spec = replace(pipeline.backbone.spec, dense_limit=0, chunk=2)
    other = MicroForgeBackbone(pipeline.backbone.latent_channels, spec, 32).eval()
    other.load_state_dict(pipeline.backbone.state_dict())
    inputs = _denoiser_inputs(pipeline)
    arguments = [inputs[name] for name in ("z", "t", "text", "mask", "pooled", "plan")]
    assert torch.allclose(pipeline.backbone(*arguments), other(*arguments), atol=1e-4)


def test_plan_similarity_tells_collapse_from_diversity() -> None:
    same = torch.ones(1, 4, 8)
    apart = torch.eye(8)[None, :4]
    assert plan_similarity(same) == pytest.approx(1.0) and plan_cosine(same) == pytest.approx(1.0)
    assert plan_similarity(apart) == pytest.approx(0.0) and plan_cosine(apart) == pytest.approx(0.0)
