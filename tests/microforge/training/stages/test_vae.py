"""What the VAE's stage promises its loop: named terms, equal pieces, a discriminator of the last phase only."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from microforge.checkpoint import read_checkpoint
from microforge.errors import MissingExtraError, SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.spec import ModelSpec
from microforge.tokenizer import PromptTokenizer
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.loop import TrainingRun, train
from microforge.training.engine.state import STATE, RunIdentity
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import OptimizerSettings, VAESettings
from microforge.training.stages import vae
from microforge.training.stages.vae import VAEStage

PLAIN = VAESettings(OptimizerSettings(1e-3), steps=8, batch=4)
#: On from step 4 of 8, at its full weight from step 5 on.
ADVERSARIAL = replace(PLAIN, adversarial=0.1, adversarial_start=0.5)
LOOP = LoopSettings(save_every=2, sample_every=100, log_every=1)


@pytest.fixture(scope="module")
def spec(pipeline: MicroForgePipeline) -> ModelSpec:
    return pipeline.spec


def _stage(spec: ModelSpec, settings: VAESettings, loop: LoopSettings = LOOP) -> VAEStage:
    return VAEStage(spec, settings, loop, (64, 64), PromptTokenizer.load())


def _gradient(network: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_vae_loss_is_the_measured_recipe_by_default(spec: ModelSpec) -> None:
    terms = _stage(spec, PLAIN).loss(0)
    assert set(terms) == {"loss", "l1", "gradient", "pooled", "kl", "psnr"}
    recipe = terms["l1"] + 2.0 * terms["gradient"] + 0.5 * terms["pooled"] + 1e-6 * terms["kl"]
    assert torch.allclose(terms["loss"], recipe)


def test_vae_loss_adds_each_term_that_has_a_weight(spec: ModelSpec) -> None:
    def hook(output: Tensor, target: Tensor) -> Tensor:
        assert output.shape == target.shape == (4, 3, 64, 64) and output.requires_grad
        return (output - target).square().mean((1, 2, 3))

    settings = replace(PLAIN, fft=0.25, perceptual=0.125, lpips=0.5)
    stage = VAEStage(spec, settings, LOOP, (64, 64), PromptTokenizer.load(), perceptual_hook=hook)
    plain, terms = _stage(spec, PLAIN).loss(0), stage.loss(0)
    assert set(terms) - set(plain) == {"fft", "perceptual", "lpips"}
    added = 0.25 * terms["fft"] + 0.125 * terms["perceptual"] + 0.5 * terms["lpips"]
    assert torch.allclose(terms["loss"], plain["loss"] + added)


def test_vae_loss_with_lpips_but_no_package_is_refused(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install lpips"):
        _stage(spec, replace(PLAIN, lpips=1.0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fft": -1.0}, "loss weight fft is -1.0"),
        ({"adversarial": math.nan}, "loss weight adversarial is nan"),
        ({"adversarial_start": 1.5}, "adversarial_start is 1.5; allowed: 0 to 1"),
    ],
)
def test_vae_settings_refuse_weights_that_cannot_be(change: Mapping[str, float], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        replace(PLAIN, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 4])
def test_vae_pieces_of_a_step_add_up_to_the_whole_step(spec: ModelSpec, count: int) -> None:
    stage = _stage(spec, replace(ADVERSARIAL, fft=1.0, perceptual=0.1, crop=32))
    assert stage.discriminator is not None
    whole = stage.loss(6)
    whole["loss"].backward()  # type: ignore[no-untyped-call]
    judged = stage.discriminator_loss(6)
    judged["loss"].backward()  # type: ignore[no-untyped-call]
    expected = [_gradient(module) for module in (stage.network, stage.discriminator)]
    stage.network.zero_grad()
    stage.discriminator.zero_grad()
    shards = [BatchShard(index, count) for index in range(count)]
    pieces = [stage.loss(6, shard) for shard in shards]
    against = [stage.discriminator_loss(6, shard) for shard in shards]
    for piece in (*pieces, *against):
        (piece["loss"] / count).backward()  # type: ignore[no-untyped-call]
    for name, value in (*whole.items(), *judged.items()):
        parts = [piece[name] for piece in (against if value is judged.get(name) else pieces)]
        assert torch.allclose(torch.stack(parts).mean(), value, atol=1e-6, rtol=1e-4), name
    for module, gradient in zip((stage.network, stage.discriminator), expected, strict=True):
        assert torch.allclose(_gradient(module), gradient, atol=1e-6, rtol=1e-3)


def test_vae_stage_refuses_a_batch_that_does_not_divide(spec: ModelSpec) -> None:
    with pytest.raises(SpecError, match="choose a multiple of 2"):
        _stage(spec, replace(PLAIN, batch=3)).loss(3, BatchShard(0, 2))


def test_discriminator_is_absent_without_a_weight_and_before_its_phase(spec: ModelSpec) -> None:
    assert _stage(spec, PLAIN).discriminator is None and _stage(spec, PLAIN).discriminator_loss(7) == {}
    stage, plain = _stage(spec, ADVERSARIAL), _stage(spec, PLAIN)
    before, without = stage.loss(3), plain.loss(3)
    assert "adversarial" not in before and stage.discriminator_loss(3) == {}
    assert torch.equal(before["loss"], without["loss"]), "the phase before it is the run without it"
    on = stage.loss(4)
    assert "adversarial" in on
    assert set(stage.discriminator_loss(4)) == {"loss", "real", "fake"}


def test_adversarial_term_rises_to_its_weight_and_never_enters_the_score(spec: ModelSpec) -> None:
    stage = _stage(spec, replace(ADVERSARIAL, steps=40))
    assert stage.discriminator is not None
    nn.init.ones_(next(reversed(list(stage.discriminator.parameters()))))  # so that logits are not small
    for step, weight in ((20, 0.025), (21, 0.05), (23, 0.1), (39, 0.1)):
        terms = stage.loss(step)
        added = (terms["loss"] - terms["score"]).item()
        assert added == pytest.approx(weight * terms["adversarial"].item(), rel=1e-3), step
    assert stage.loss(19)["score"] == stage.loss(19)["loss"]


def test_discriminator_in_a_decoder_only_run_leaves_the_encoder_alone(
    spec: ModelSpec, tmp_path: Path
) -> None:
    first = _stage(spec, PLAIN)
    first.write(tmp_path / "vae", first.network)
    finished = read_checkpoint(tmp_path / "vae")
    settings = replace(ADVERSARIAL, adversarial_start=0.0)
    stage = VAEStage(finished.spec, settings, LOOP, (64, 64), PromptTokenizer.load(), finished)
    terms = stage.loss(0)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    assert "adversarial" in terms and "kl" not in terms
    assert all(parameter.grad is None for parameter in stage.network.encoder.parameters())
    assert all(parameter.grad is not None for parameter in stage.network.decoder.parameters())
    assert set(stage.discriminator_loss(0)) == {"loss", "real", "fake"}


class _Interrupted(VAEStage):
    def loss(self, step: int, shard: BatchShard = WHOLE) -> Mapping[str, Tensor]:
        if step == 7:
            raise KeyboardInterrupt
        return super().loss(step, shard)


def test_adversarial_run_interrupted_and_resumed_equals_an_uninterrupted_one(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    unmeasured = (0.0,) * 4, (1.0,) * 4
    monkeypatch.setattr(vae, "latent_statistics", lambda *_: unmeasured)  # keeps the test quick
    monkeypatch.setattr("microforge.training.engine.loop.plot_losses", lambda *_: None)

    def go(name: str, kind: type[VAEStage]) -> dict[str, Tensor]:
        folder = tmp_path / name
        stage = kind(spec, replace(ADVERSARIAL, batch=2), LOOP, (64, 64), PromptTokenizer.load())
        identity = RunIdentity("vae", "miniature", 0)
        run = TrainingRun(folder, folder / "checkpoint", identity, 8, PLAIN.optimizer, LOOP)
        train(run, stage, Console(quiet=True))
        return load_file(folder / STATE)

    whole = go("whole", VAEStage)
    with pytest.raises(KeyboardInterrupt):
        go("broken", _Interrupted)
    broken = go("broken", VAEStage)
    assert whole.keys() == broken.keys() and any(name.startswith("adversary.") for name in whole)
    for name, value in whole.items():
        assert torch.equal(value, broken[name]), name
    start = _stage(spec, ADVERSARIAL).discriminator
    assert start is not None
    assert not torch.equal(whole["adversary.stem.weight"], start.state_dict()["stem.weight"]), "it learned"


def test_vae_stage_turns_checkpointing_on_and_keeps_its_gradients(spec: ModelSpec) -> None:
    gradients = []
    for recompute in (False, True):
        stage = _stage(spec, PLAIN, replace(LOOP, checkpoint_blocks=recompute))
        assert stage.network.encoder.checkpoint_blocks == stage.network.decoder.checkpoint_blocks == recompute
        stage.loss(0)["loss"].backward()  # type: ignore[no-untyped-call]
        gradients.append(_gradient(stage.network))
    assert torch.allclose(gradients[0], gradients[1], atol=1e-7)


def test_vae_stage_with_every_term_has_finite_gradients_under_bfloat16_autocast(spec: ModelSpec) -> None:
    stage = _stage(spec, replace(ADVERSARIAL, fft=1.0, perceptual=0.1))
    assert stage.discriminator is not None
    with torch.autocast("cpu", torch.bfloat16):
        terms = stage.loss(7)
        against = stage.discriminator_loss(7)
    (terms["loss"] + against["loss"]).backward()  # type: ignore[no-untyped-call]
    for module in (stage.network, stage.discriminator):
        assert bool(_gradient(module).isfinite().all()) and bool(_gradient(module).any())
