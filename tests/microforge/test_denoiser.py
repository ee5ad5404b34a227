"""What the denoiser may and may not depend on."""

import copy
from dataclasses import replace

import pytest
import torch

from microforge.backbone import MicroForgeBackbone, add_aligned_source
from microforge.pipeline import MicroForgePipeline
from microforge.spec import preset


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


def test_checkpointed_blocks_give_the_same_gradients(pipeline: MicroForgePipeline) -> None:
    denoiser, inputs = copy.deepcopy(pipeline.denoiser), _denoiser_inputs(pipeline)
    runs: dict[str, int] = {"count": 0}
    denoiser.backbone.blocks[0].register_forward_pre_hook(lambda *_: runs.update(count=runs["count"] + 1))
    results = []
    for wanted in (False, True):
        denoiser.backbone.checkpoint_blocks = denoiser.planner.checkpoint_blocks = wanted
        denoiser.zero_grad(set_to_none=True)
        velocity, next_plan = denoiser(**inputs)
        (velocity.square().sum() + next_plan.square().sum()).backward()
        results.append([parameter.grad for parameter in denoiser.parameters()])
    assert runs["count"] == 3, "once, then twice"
    for one, two in zip(*results, strict=True):
        assert (one is None and two is None) or (
            one is not None and two is not None and torch.equal(one, two)
        )
    with torch.no_grad():
        denoiser(**inputs)
    assert runs["count"] == 4, "nothing is run twice without gradients"


def test_source_in_place_adds_each_source_token_to_its_own_and_no_parameter() -> None:
    height, width, dim = 3, 2, 8
    x = torch.randn(2, 2 * height * width, dim)
    grid = x.reshape(2, height, 2 * width, dim)
    results = add_aligned_source(x, height, width).reshape(grid.shape)
    assert torch.equal(results[:, :, width:], grid[:, :, width:])
    added = results[:, :, :width] - grid[:, :, :width]
    assert torch.allclose(added, grid[:, :, width:].roll(dim // 2, -1), atol=1e-6)


def test_source_in_place_changes_edits_alone() -> None:
    spec = replace(preset("nano").backbone, aligned_source=False)
    torch.manual_seed(0)
    without = MicroForgeBackbone(16, spec, 32).eval()
    torch.nn.init.normal_(without.head.weight, std=0.1)
    with_it = MicroForgeBackbone(16, replace(spec, aligned_source=True), 32).eval()
    with_it.load_state_dict(without.state_dict())  # the same parameters, to the name
    z, source = torch.randn(2, 1, 16, 4, 4)
    rest = (
        torch.tensor([0.5]),
        torch.randn(1, 3, 32),
        torch.ones(1, 3),
        torch.randn(1, 32),
        torch.randn(1, 2, spec.dim),
    )
    with torch.no_grad():
        assert torch.equal(without(z, *rest), with_it(z, *rest))
        assert not torch.allclose(without(z, *rest, source), with_it(z, *rest, source), atol=1e-4)
