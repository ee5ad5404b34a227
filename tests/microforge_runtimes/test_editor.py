"""Tasks that take an image, with a miniature bundle: known results, three branches, one stage in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microforge.errors import BundleError, PromptError, SpecError
from microforge.tokenizer import TASK_IDS
from microforge_runtimes import Editor, Request
from microforge_runtimes import generator as module
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.sampler import Floats, Step

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)
SIZE = (64, 64)
MEAN, STD = (np.array(values).reshape(1, 2, 1, 1) for values in ([0.5, -0.5], [2.0, 1.0]))


def _source(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).random((1, 3, *SIZE), dtype=np.float32)


def _latent(image: Floats) -> np.ndarray:
    """What the miniature encoder gives, normalised, in double precision."""
    cells = image[:, :2].astype(np.float64).reshape(1, 2, 2, 32, 2, 32).mean(axis=(3, 5))
    normalized: np.ndarray = (cells - MEAN) / STD
    return normalized


def _mask() -> Floats:
    """The left upper cell alone."""
    mask = np.zeros((1, 1, *SIZE), np.float32)
    mask[..., 5:20, 3:9] = 1
    return mask


def _pooled(editor: Editor, task: str, prompt: str) -> tuple[float, float]:
    """What the miniature text encoder gives, in double precision, with the prompt and without."""
    tokenizer = editor.tokenizer("prompt")
    values = [tokenizer.encode(text, task) for text in (prompt, None)]
    full, empty = (float((item.ids * item.mask).mean() / 100) for item in values)
    return full, empty


def _expected(
    noise: Floats, source: np.ndarray, pooled: float, empty: float,
    blend: Callable[[np.ndarray, float], np.ndarray] = lambda z, t: z,
) -> np.ndarray:  # fmt: skip
    """Three branches with a plan state each, in double precision: text 3, image 1.5."""
    z, plans = noise.astype(np.float64), [0.0, 0.0, 0.0]
    for t, t_next in itertools.pairwise(GRID):
        plans = [plan / 2 + level for plan, level in zip(plans, (pooled, empty, empty), strict=True)]
        full, source_only, nothing = (
            z / 4 + t + plan + shown / 8
            for plan, shown in zip(plans, (source, source, 0 * source), strict=True)
        )
        velocity = nothing + 1.5 * (source_only - nothing) + 3.0 * (full - source_only)
        z = blend(z + (t_next - t) * velocity, t_next)
    return z


def test_edit_is_the_closed_form_of_three_branches(editing_bundle: Path) -> None:
    editor, source = Editor(editing_bundle, size=SIZE), _source()
    pooled, empty = _pooled(editor, "edit", "a red circle")
    steps: list[Step] = []
    result = editor.edit(source, "a red circle", 5, callback=steps.append)
    expected = _expected(editor.noise(5), _latent(source), pooled, empty)
    np.testing.assert_allclose(result.latent, expected, atol=2e-5)
    assert np.abs(expected - _expected(editor.noise(5), 0 * _latent(source), pooled, empty)).max() > 0.01
    assert [step.index for step in steps] == [1, 2, 3, 4] and result.task == "edit"
    assert set(result.seconds) == {"text_encoder", "vae_encoder", "denoiser_edit", "vae_decoder"}


def test_a_task_without_a_prompt_is_the_same_form_and_runs_two_branches(
    editing_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _logged(monkeypatch)
    editor, small = Editor(editing_bundle, size=SIZE), np.full((1, 3, 16, 16), 0.25, np.float32)
    result = editor.super_resolve(small, seed=5)
    assert log.count("run denoiser_edit0") == 2 * 4
    _, empty = _pooled(editor, "super-resolve", "a")
    flat = _latent(np.full((1, 3, *SIZE), 0.25, np.float32))
    np.testing.assert_allclose(result.latent, _expected(editor.noise(5), flat, empty, empty), atol=2e-5)


@pytest.mark.parametrize("task", ["inpaint", "edit"])
def test_a_mask_blends_the_known_cells_back_and_keeps_every_other_pixel(
    editing_bundle: Path, task: str
) -> None:
    editor, source, mask = Editor(editing_bundle, size=SIZE), _source(), _mask()
    pooled, empty = _pooled(editor, task, "a red circle")
    noise, known = editor.noise(7), _latent(source)
    cells = np.array([[[[1.0, 0.0], [0.0, 0.0]]]])

    def blend(z: np.ndarray, t: float) -> np.ndarray:
        mixed: np.ndarray = cells * z + (1 - cells) * ((1 - t) * known + t * noise)
        return mixed

    if task == "inpaint":  # an edit sees what lies under its mask
        shown = np.where(mask > 0, np.float32(0.5), source)
        result = editor.inpaint(source, mask, "a red circle", 7)
    else:
        shown, result = source, editor.edit(source, "a red circle", 7, mask=mask)
    np.testing.assert_allclose(
        result.latent, _expected(noise, _latent(shown), pooled, empty, blend), atol=2e-5
    )
    np.testing.assert_allclose(result.latent[..., 1, :], known[..., 1, :], atol=1e-6)
    outside = mask[0, 0] == 0
    original = np.rint(source[0] * 255).astype(np.uint8).transpose(1, 2, 0)
    np.testing.assert_array_equal(result.image[outside], original[outside])
    assert (result.image[~outside] != original[~outside]).any()


def test_super_resolve_shows_the_bicubic_upsample(editing_bundle: Path) -> None:
    editor = Editor(editing_bundle, size=SIZE)
    small = np.full((1, 3, 16, 16), 0.25, np.float32)
    result = editor.super_resolve(small, seed=3)
    _, empty = _pooled(editor, "super-resolve", "a")
    flat = _latent(np.full((1, 3, *SIZE), 0.25, np.float32))
    np.testing.assert_allclose(result.latent, _expected(editor.noise(3), flat, empty, empty), atol=2e-5)
    with pytest.raises(SpecError, match="super-resolve to 64x64 needs an image of one of: 32x32, 16x16, 8x8"):
        editor.super_resolve(np.full((1, 3, 20, 20), 0.25, np.float32))


@pytest.mark.parametrize(("strength", "row"), [(0.75, 1), (0.5, 2), (0.25, 3), (None, 2)])
def test_vary_starts_from_the_image_at_a_later_time(
    editing_bundle: Path, strength: float | None, row: int
) -> None:
    editor, source = Editor(editing_bundle, size=SIZE), _source()
    steps: list[Step] = []
    result = editor.vary(source, "a red circle", strength, 5, callback=steps.append)
    pooled, empty = _pooled(editor, "vary", "a red circle")
    noise, t = editor.noise(5), GRID[row]
    z, plans = (1 - t) * _latent(source) + t * noise, [0.0, 0.0]
    for t, t_next in itertools.pairwise(GRID[row:]):
        plans = [plan / 2 + level for plan, level in zip(plans, (pooled, empty), strict=True)]
        full, plain = (z / 4 + t + plan for plan in plans)
        z = z + (t_next - t) * (plain + 3.0 * (full - plain))
    np.testing.assert_allclose(result.latent, z, atol=2e-5)
    assert [step.index for step in steps] == list(range(1, 5 - row)) and steps[0].steps == 4 - row
    assert result.strength == (strength or 0.5) and result.steps == 4


def test_every_task_has_its_own_prefix(editing_bundle: Path) -> None:
    editor = Editor(editing_bundle, size=SIZE)
    tokenizer = editor.tokenizer("prompt")
    for task, index in TASK_IDS.items():
        assert tokenizer.encode("a", task).ids[1] == tokenizer.encode(None, task).ids[1] == index


def test_an_editor_generates_as_a_generator_does(editing_bundle: Path) -> None:
    image = module.Generator(editing_bundle, size=SIZE).generate("a red circle", 2).image
    np.testing.assert_array_equal(Editor(editing_bundle, size=SIZE).generate("a red circle", 2).image, image)


def _logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []

    def opened(bundle, target, key, threads=None) -> Session:  # type: ignore[no-untyped-def]
        session = open_session(bundle, target, key, threads)
        events.append(f"open {key}")

        class Logged:
            def run(self, inputs):  # type: ignore[no-untyped-def]
                events.append(f"run {key}")
                return session.run(inputs)

            def close(self) -> None:
                events.append(f"close {key}")
                session.close()

        return Logged()

    monkeypatch.setattr(module, "open_session", opened)
    return events


def test_one_stage_is_in_memory_at_a_time(editing_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _logged(monkeypatch)
    Editor(editing_bundle, size=SIZE).edit(_source(), "a red circle")
    assert [event for event in log if not event.startswith("run")] == [
        "open text", "close text", "open encoder0", "close encoder0",
        "open denoiser_edit0", "close denoiser_edit0", "open decoder0", "close decoder0",
    ]  # fmt: skip
    assert log.count("run denoiser_edit0") == 3 * 4 and log.count("run text") == 2


def test_folded_guidance_runs_one_branch(
    new_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _logged(monkeypatch)
    Editor(new_bundle(sizes=(SIZE,), tasks=tuple(TASK_IDS))).edit(_source(), "a red circle")
    assert log.count("run denoiser_edit0") == 4 and log.count("run text") == 1


def test_bad_input_is_refused_before_an_engine_loads(
    editing_bundle: Path, guided_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = _logged(monkeypatch)
    with pytest.raises(BundleError, match="cannot edit; its tasks: generate"):
        Editor(guided_bundle, size=(32, 32)).edit(_source(), "a red circle")
    editor = Editor(editing_bundle, size=SIZE)
    with pytest.raises(PromptError, match="empty"):
        editor.edit(_source(), " ")
    with pytest.raises(SpecError, match="mask is all zero"):
        editor.inpaint(_source(), 0 * _mask())
    with pytest.raises(SpecError, match=r"mask is \(1, 1, 32, 32\)"):
        editor.inpaint(_source(), _mask()[..., ::2, ::2])
    with pytest.raises(SpecError, match="super-resolve takes no mask"):
        editor.run(Request("a", "super-resolve", _source()[..., ::2, ::2], _mask()))
    with pytest.raises(SpecError, match="inpaint needs a mask"):
        editor.run(Request(None, "inpaint", _source()))
    with pytest.raises(SpecError, match="generate takes no image"):
        editor.run(Request("a", "generate", _source()))
    with pytest.raises(SpecError, match="edit needs an image"):
        editor.run(Request("a", "edit"))
    with pytest.raises(
        SpecError, match=r"the image is float32\[1, 3, 32, 32\]; it must be float32\[1, 3, 64, 64\]"
    ):
        editor.edit(_source()[..., ::2, ::2], "a")
    with pytest.raises(SpecError, match=r"strength is 1\.5; allowed: above 0, at most 1"):
        editor.vary(_source(), strength=1.5)
    with pytest.raises(BundleError, match="steps is 3; this bundle allows: 4, 2, 1"):
        editor.edit(_source(), "a", steps=3)
    assert log == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.full((1, 3, 64, 64), np.nan, np.float32)}, "the image holds NaN or infinity"),
        ({"image": "photo.png"}, "the image is str; it must be finite float32"),
        ({"prompt": b"a circle"}, "the prompt is bytes; it must be text"),
        ({"prompt": 5}, "the prompt is int; it must be text"),
        ({"seed": 1.5}, "seed is 1.5; allowed: 0 to"),
        ({"seed": "1"}, "seed is 1; allowed: 0 to"),
        ({"task": "vary", "strength": "0.5x"}, "strength is 0.5x; allowed: above 0"),
    ],
)
def test_values_of_another_type_or_not_finite_are_refused_by_name(
    editing_bundle: Path, change: dict[str, Any], message: str
) -> None:
    request = {"prompt": "a", "task": "edit", "image": np.zeros((1, 3, 64, 64), np.float32), **change}
    with pytest.raises((SpecError, PromptError), match=message):
        Editor(editing_bundle, size=(64, 64)).run(Request(**request))
