"""Generation with a miniature bundle: known results, one stage in memory at a time, plan states kept apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import microforge_runtimes
from microforge.bundle.files import load_bundle
from microforge.errors import BundleError, PromptError, SpecError
from microforge.noise import standard_normal
from microforge_runtimes import generator as module
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.generator import Conditioning, Generator
from microforge_runtimes.sampler import Step

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)


class _Log:
    """Stands in for ``open_session`` and writes down what is opened, run and closed."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, bundle, target, key, threads=None) -> Session:  # type: ignore[no-untyped-def]
        session, events = open_session(bundle, target, key, threads), self.events
        events.append(f"open {key}")

        class Logged:
            def run(self, inputs):  # type: ignore[no-untyped-def]
                events.append(f"run {key}")
                return session.run(inputs)

            def close(self) -> None:
                events.append(f"close {key}")
                session.close()

        return Logged()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    recorder = _Log()
    monkeypatch.setattr(module, "open_session", recorder)
    return recorder.events


def test_stages_load_when_needed_and_are_freed_before_the_next(folded_bundle: Path, log: list[str]) -> None:
    Generator(folded_bundle).generate("a red circle")
    assert log == [
        "open text", "run text", "close text",
        "open denoiser0", *["run denoiser0"] * 4, "close denoiser0",
        "open decoder0", "run decoder0", "close decoder0",
    ]  # fmt: skip


def test_guidance_evaluates_both_prompts_with_one_load(guided_bundle: Path, log: list[str]) -> None:
    Generator(guided_bundle, size=(32, 32)).generate("a red circle")
    assert log.count("run text") == 2 and log.count("open text") == 1
    assert log.count("run denoiser1") == 8 and log.count("open denoiser1") == 1


def test_kept_stages_load_once_and_close_at_the_end(folded_bundle: Path, log: list[str]) -> None:
    with Generator(folded_bundle, keep_loaded=True) as generator:
        first = generator.generate("a red circle", seed=1)
        second = generator.generate("a red circle", seed=1)
        assert [event for event in log if event.startswith("close")] == []
    np.testing.assert_array_equal(first.image, second.image)
    assert sorted(event for event in log if event.startswith("open")) == [
        "open decoder0",
        "open denoiser0",
        "open text",
    ]
    assert len([event for event in log if event.startswith("close")]) == 3


def test_a_stage_is_freed_when_sampling_fails(folded_bundle: Path, log: list[str]) -> None:
    def fail(step: Step) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Generator(folded_bundle).generate("a red circle", callback=fail)
    assert log[-2:] == ["run denoiser0", "close denoiser0"]


@pytest.mark.parametrize(("name", "scale"), [("folded_bundle", 1.0), ("guided_bundle", 3.0)])
def test_the_latent_is_the_closed_form_with_a_plan_state_per_branch(
    name: str, scale: float, request: pytest.FixtureRequest, closed_form: Callable[..., np.ndarray]
) -> None:
    generator = Generator(request.getfixturevalue(name), size=(64, 96))
    conditional, empty = generator.encode(generator.tokens("a red circle"), generator.empty_tokens())
    pooled, pooled_empty = float(conditional.pooled.mean()), float(empty.pooled.mean())
    assert pooled > 2 * pooled_empty
    noise = generator.noise(5)
    np.testing.assert_array_equal(noise, standard_normal(5, (1, 2, 2, 3)))
    steps: list[Step] = []
    z = generator.sample_latent(conditional, empty, noise, callback=steps.append)
    np.testing.assert_allclose(z, closed_form(noise, pooled, pooled_empty, scale, GRID), atol=1e-5)
    assert [(step.index, step.steps, step.t, step.t_next) for step in steps] == [
        (i + 1, 4, GRID[i], GRID[i + 1]) for i in range(4)
    ]
    assert steps[-1].plan is not None and steps[-1].plan.shape == (1, 3, 4)
    assert steps[1].plan is not None
    np.testing.assert_allclose(steps[1].plan, pooled * 1.5, rtol=1e-5)
    np.testing.assert_array_equal(steps[-1].z, z)


def test_a_shared_plan_state_would_be_noticed(
    guided_bundle: Path, closed_form: Callable[..., np.ndarray]
) -> None:
    generator = Generator(guided_bundle, size=(32, 32))
    conditional, empty = generator.encode(generator.tokens("a red circle"), generator.empty_tokens())
    noise, pooled, other = generator.noise(0), float(conditional.pooled.mean()), float(empty.pooled.mean())
    plan, z = 0.0, noise.astype(np.float64)
    for t, t_next in itertools.pairwise(GRID):
        with_prompt = plan / 2 + pooled
        plan = with_prompt / 2 + other  # the mistake: the empty branch goes on from the prompt's plan
        z = z + (t_next - t) * (z / 4 + t + plan + 3.0 * (with_prompt - plan))
    assert np.abs(z - closed_form(noise, pooled, other, 3.0, GRID)).max() > 0.01


def test_the_image_decodes_the_denormalised_latent(folded_bundle: Path) -> None:
    result = Generator(folded_bundle).generate("a red circle", seed=2**63)
    latent = result.z * np.array([2.0, 1.0]).reshape(1, 2, 1, 1) + np.array([0.5, -0.5]).reshape(1, 2, 1, 1)
    cells = 1 / (1 + np.exp(-latent.mean(axis=1)[0]))
    assert result.image.shape == (64, 96, 3) and result.image.dtype == np.uint8
    np.testing.assert_allclose(result.image[::32, ::32, 1], cells * 255, atol=0.51)
    assert (result.height, result.width, result.steps, result.seed) == (64, 96, 4, 2**63)
    assert set(result.seconds) == {"text_encoder", "denoiser", "vae_decoder"}


def test_a_fewer_step_grid_is_used_when_the_bundle_allows_it(
    guided_bundle: Path, folded_bundle: Path
) -> None:
    assert Generator(guided_bundle, size=(32, 32)).generate("a red circle", steps=2).steps == 2
    with pytest.raises(BundleError, match="steps is 2; this bundle allows: 4"):
        Generator(folded_bundle).generate("a red circle", steps=2)


def test_guided_sampling_without_the_empty_prompt_is_a_mistake(guided_bundle: Path) -> None:
    generator = Generator(guided_bundle, size=(32, 32))
    text, mask, pooled = (np.zeros(shape, np.float32) for shape in ((1, 16, 4), (1, 16), (1, 4)))
    with pytest.raises(ValueError, match="empty prompt is needed"):
        generator.sample_latent(Conditioning(text, mask, pooled), None, generator.noise(0))


def test_bad_input_is_refused_before_an_engine_loads(guided_bundle: Path, log: list[str]) -> None:
    with pytest.raises(BundleError, match="several sizes; choose one: 64x96, 32x32"):
        Generator(guided_bundle)
    with pytest.raises(BundleError, match="no size 128x128; it has: 64x96, 32x32"):
        Generator(guided_bundle, size=(128, 128))
    with pytest.raises(BundleError, match="no target 'coreml'; it has: onnx"):
        Generator(guided_bundle, target="coreml", size=(32, 32))
    generator = Generator(guided_bundle, size=(32, 32))
    with pytest.raises(PromptError, match="empty"):
        generator.generate("  ")
    with pytest.raises(SpecError, match="seed is -1"):
        generator.generate("a red circle", seed=-1)
    assert log == []


def test_a_long_prompt_is_cut_and_says_so(folded_bundle: Path) -> None:
    assert Generator(folded_bundle).generate("a red circle " * 30).truncated
    assert not Generator(folded_bundle).generate("a red circle").truncated


def test_sessions_refuse_wrong_inputs_and_use_after_closing(folded_bundle: Path) -> None:
    session = open_session(load_bundle(folded_bundle), "onnx", "decoder0", threads=1)
    good = np.zeros((1, 2, 2, 3), np.float32)
    assert session.run({"latent": good})["image"].shape == (1, 3, 64, 96)
    with pytest.raises(ValueError, match="takes latent; got z"):
        session.run({"z": good})
    with pytest.raises(ValueError, match=r"is float64\[1, 2, 2, 3\], needed: float32\[1, 2, 2, 3\]"):
        session.run({"latent": good.astype(np.float64)})
    with pytest.raises(ValueError, match=r"is float32\[1, 2, 3, 2\]"):
        session.run({"latent": good.reshape(1, 2, 3, 2)})
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run({"latent": good})


def test_the_package_offers_its_names_and_no_others() -> None:
    for name in microforge_runtimes.__all__:
        assert getattr(microforge_runtimes, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        microforge_runtimes.nothing  # noqa: B018
