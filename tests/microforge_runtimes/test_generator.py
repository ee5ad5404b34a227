"""Generation with a miniature bundle: known results, one stage in memory at a time, states kept apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microforge_runtimes
from microforge.bundle.files import load_bundle
from microforge.errors import BundleError, GenerationError, PromptError, SpecError
from microforge.noise import standard_normal
from microforge_runtimes import generator as module
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.generator import Generator, Request
from microforge_runtimes.request import Checked, Encodings, PromptText
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


def test_stages_load_when_needed_and_are_freed_before_the_next(
    distilled_bundle: Path, log: list[str]
) -> None:
    Generator(distilled_bundle).generate("a red circle")
    assert log == [
        "open text", "run text", "close text",
        "open denoiser0", *["run denoiser0"] * 4, "close denoiser0",
        "open decoder0", "run decoder0", "close decoder0",
    ]  # fmt: skip


def test_guidance_evaluates_both_prompts_with_one_load(guided_bundle: Path, log: list[str]) -> None:
    Generator(guided_bundle, size=(32, 32)).generate("a red circle")
    assert log.count("run text") == 2 and log.count("open text") == 1
    assert log.count("run denoiser1") == 8 and log.count("open denoiser1") == 1


def test_kept_stages_load_once_and_close_at_the_end(distilled_bundle: Path, log: list[str]) -> None:
    with Generator(distilled_bundle, keep_loaded=True) as generator:
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


def test_a_stage_is_freed_when_sampling_fails(distilled_bundle: Path, log: list[str]) -> None:
    def fail(step: Step) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        Generator(distilled_bundle).generate("a red circle", callback=fail)
    assert log[-2:] == ["run denoiser0", "close denoiser0"]


def _encoded(generator: Generator, seed: int = 5) -> tuple[Checked, Encodings, float, float]:
    """A checked request with its encodings, and the mean of the pooled output with and without the prompt."""
    checked = generator.check(Request("a red circle", seed=seed))
    encodings = generator.encode(checked)
    full = float(encodings.outputs["prompt", PromptText("a red circle", True)]["pooled"].mean())
    empty = encodings.outputs.get(("prompt", PromptText(None)))
    return checked, encodings, full, 0.0 if empty is None else float(empty["pooled"].mean())


@pytest.mark.parametrize(("name", "scale"), [("distilled_bundle", 1.0), ("guided_bundle", 3.0)])
def test_the_latent_is_the_closed_form_with_a_state_per_branch(
    name: str, scale: float, request: pytest.FixtureRequest, closed_form: Callable[..., np.ndarray]
) -> None:
    generator = Generator(request.getfixturevalue(name), size=(64, 96))
    checked, encodings, pooled, empty = _encoded(generator)
    assert pooled > 2 * empty
    noise = generator.noise(5)
    np.testing.assert_array_equal(noise, standard_normal(5, (1, 2, 2, 3)))
    steps: list[Step] = []
    latent = generator.sample(checked, encodings, steps.append)
    np.testing.assert_allclose(latent, closed_form(noise, pooled, empty, scale, GRID), atol=1e-5)
    assert [(step.index, step.steps, step.time) for step in steps] == [(i + 1, 4, GRID[i]) for i in range(4)]
    assert {name: state.shape for name, state in steps[-1].states.items()} == {"plan": (1, 3, 4)}
    np.testing.assert_allclose(steps[1].states["plan"], pooled * 1.5, rtol=1e-5)
    np.testing.assert_array_equal(steps[-1].latent, latent)
    picture = steps[0].preview()
    assert picture is not None and picture.shape == (4, 6, 3)


def test_a_shared_state_would_be_noticed(guided_bundle: Path, closed_form: Callable[..., np.ndarray]) -> None:
    generator = Generator(guided_bundle, size=(32, 32))
    _, _, pooled, other = _encoded(generator)
    noise = generator.noise(0)
    plan, z = 0.0, noise.astype(np.float64)
    for t, t_next in itertools.pairwise(GRID):
        with_prompt = plan / 2 + pooled
        plan = with_prompt / 2 + other  # the mistake: the empty branch goes on from the prompt's plan
        z = z + (t_next - t) * (z / 4 + t + plan + 3.0 * (with_prompt - plan))
    assert np.abs(z - closed_form(noise, pooled, other, 3.0, GRID)).max() > 0.01


def test_a_users_scale_negative_prompt_and_count_are_followed(
    guided_bundle: Path, closed_form: Callable[..., np.ndarray]
) -> None:
    generator = Generator(guided_bundle, size=(32, 32))
    _, _, pooled, empty = _encoded(generator)
    request = Request("a red circle", guidance={"text": 2.0}, steps=2)
    expected = closed_form(generator.noise(0), pooled, empty, 2.0, (1.0, 0.5, 0.0))
    np.testing.assert_allclose(generator.run(request).latent, expected, atol=1e-5)
    negative = generator.run(Request("a red circle", negative="a red circle", guidance={"text": 2.0}))
    alone = closed_form(generator.noise(0), pooled, empty, 1.0, GRID)
    np.testing.assert_allclose(
        negative.latent, alone, atol=1e-5, err_msg="nothing is left to steer away from"
    )
    assert (negative.negative, negative.guidance) == ("a red circle", {"text": 2.0})


def test_scale_one_evaluates_the_prompt_alone(guided_bundle: Path, log: list[str]) -> None:
    Generator(guided_bundle, size=(32, 32)).run(Request("a red circle", guidance={"text": 1.0}))
    assert log.count("run denoiser1") == 4 and log.count("run text") == 1


def test_the_image_decodes_the_denormalised_latent(distilled_bundle: Path) -> None:
    result = Generator(distilled_bundle).generate("a red circle", seed=2**63)
    latent = result.latent * np.array([2.0, 1.0]).reshape(1, 2, 1, 1) + np.array([0.5, -0.5]).reshape(
        1, 2, 1, 1
    )
    cells = 1 / (1 + np.exp(-latent.mean(axis=1)[0]))
    assert result.image.shape == (64, 96, 3) and result.image.dtype == np.uint8
    np.testing.assert_allclose(result.image[::32, ::32, 1], cells * 255, atol=0.51)
    assert (result.height, result.width, result.steps, result.seed) == (64, 96, 4, 2**63)
    assert set(result.seconds) == {"text_encoder", "denoiser", "vae_decoder"}


def test_a_fewer_step_grid_is_used_when_the_bundle_allows_it(
    guided_bundle: Path, distilled_bundle: Path
) -> None:
    assert Generator(guided_bundle, size=(32, 32)).generate("a red circle", steps=2).steps == 2
    with pytest.raises(BundleError, match="steps is 2; this bundle allows: 4"):
        Generator(distilled_bundle).generate("a red circle", steps=2)


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
    refused: list[tuple[Request, type[ValueError], str]] = [
        (Request("a", "paint"), BundleError, "cannot paint; its tasks: generate"),
        (Request(), PromptError, "generate needs a prompt"),
        (Request("a", image=np.zeros((1, 3, 32, 32), np.float32)), SpecError, "generate takes no image"),
        (Request("a", strength=0.5), SpecError, "strength does not belong to generate"),
        (
            Request("a", guidance={"image": 2.0}),
            SpecError,
            "guidance scale 'image' is unknown; this bundle has: text",
        ),
        (Request("a", guidance={"text": 99.0}), SpecError, "guidance scale text is 99; allowed: 0 to 30"),
        (
            Request("a", parameters={"label": 1}),
            SpecError,
            "parameter 'label' is unknown; this bundle has none",
        ),
        (Request("a", negative=" "), PromptError, "empty"),
    ]
    for request, kind, message in refused:
        with pytest.raises(kind, match=message):
            generator.run(request)
    assert log == []


def test_a_distilled_bundle_takes_no_negative_prompt(distilled_bundle: Path) -> None:
    with pytest.raises(SpecError, match="takes no negative prompt"):
        Generator(distilled_bundle).run(Request("a red circle", negative="blur"))


def test_a_long_prompt_is_cut_and_says_so(distilled_bundle: Path) -> None:
    assert Generator(distilled_bundle).generate("a red circle " * 30).truncated
    assert not Generator(distilled_bundle).generate("a red circle").truncated


def test_sessions_refuse_wrong_inputs_and_use_after_closing(distilled_bundle: Path) -> None:
    session = open_session(load_bundle(distilled_bundle), "onnx", "decoder0", threads=1)
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


@pytest.mark.parametrize("kind", ["prompt_encoder", "network", "decoder"])
def test_the_component_that_gives_nan_is_named(
    distilled_bundle: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from microforge_runtimes.engines.onnx import OnnxSession

    run, generator = OnnxSession.run, Generator(distilled_bundle)
    role = next(stage.role for stage in generator.manifest.stages() if stage.kind == kind)

    def broken(session: OnnxSession, inputs: Any) -> Any:
        outputs = run(session, inputs)
        if session._component.role == role:
            outputs = {name: np.full_like(value, np.nan) for name, value in outputs.items()}
        return outputs

    monkeypatch.setattr(OnnxSession, "run", broken)
    with pytest.raises(GenerationError, match=rf"{role} .*gave \d+ of \d+ values that are not finite"):
        generator.generate("a red circle")


def test_a_graph_that_fails_while_it_runs_is_one_line(
    distilled_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = Generator(distilled_bundle, keep_loaded=True)
    with generator.stage(generator.manifest.stages()[0].role) as session:

        class Failing:
            def run(self, *arguments: Any) -> Any:
                raise RuntimeError("indices element out of data bounds\nat node 3")

        component = session._component  # type: ignore[attr-defined]
        monkeypatch.setattr(session, "_session", Failing())
        inputs = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in component.inputs}
        with pytest.raises(BundleError, match=r"cannot run .*: indices element out of data bounds at node 3"):
            session.run(inputs)


def test_a_generators_size_is_given_in_every_usual_form(distilled_bundle: Path) -> None:
    only = Generator(distilled_bundle).size
    for size in (None, f"{only.height}x{only.width}", (only.height, only.width)):
        assert Generator(distilled_bundle, size=size).size == only
    with pytest.raises(BundleError, match=f"has no size 640x640; it has: {only.height}x{only.width}"):
        Generator(distilled_bundle, size="640")
