"""``mf-generate`` with a source: any file comes back at its own size, wrong pairings are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge.io.console import exit_code
from microforge_runtimes.cli import app

Capture = pytest.CaptureFixture[str]


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


def _photo(path: Path, size: tuple[int, int]) -> Path:
    """A phone's photo of ``size`` (width, height) when upright, stored lying on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.linear_gradient("L").resize((size[1], size[0])).convert("RGB")
    lying.save(path, exif=exif, quality=90)
    return path


def _icon(path: Path, size: tuple[int, int] = (40, 40)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _mask(path: Path, size: tuple[int, int]) -> Path:
    mask = Image.new("L", size)
    mask.paste(255, (size[0] // 4, size[1] // 4, size[0] // 2, size[1] // 2))
    mask.save(path)
    return path


@pytest.mark.parametrize("size", [(300, 400), pytest.param((3000, 4000), marks=pytest.mark.slow)])
def test_a_phone_photo_comes_back_at_its_own_size(
    editing_bundle: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    photo, mask = _photo(tmp_path / "photo.jpg", size), _mask(tmp_path / "mask.png", size)
    words = (editing_bundle, "a red circle", "--source", photo, "--threads", 1)
    assert _run(*words, "--out", tmp_path / "edit.png") == 0
    assert _run(*words, "--mask", mask, "--out", tmp_path / "inpaint.png") == 0
    with Image.open(tmp_path / "edit.png") as image:
        assert image.size == size and image.mode == "RGB" and image.info["task"] == "edit"
    with Image.open(tmp_path / "inpaint.png") as image, Image.open(photo) as source, Image.open(mask) as hole:
        upright = np.asarray(source.transpose(Image.Transpose.ROTATE_270))
        found, outside = np.asarray(image), np.asarray(hole) == 0
    assert found.shape == (size[1], size[0], 3)
    np.testing.assert_array_equal(found[outside], upright[outside])
    assert (found[~outside] != upright[~outside]).mean() > 0.5


def test_an_icon_comes_back_at_its_own_size_with_its_alpha(editing_bundle: Path, tmp_path: Path) -> None:
    icon, mask = _icon(tmp_path / "icon.png"), _mask(tmp_path / "mask.png", (40, 40))
    assert _run(editing_bundle, "a red circle", "--source", icon, "--out", tmp_path / "edit.png") == 0
    assert _run(editing_bundle, "--source", icon, "--mask", mask, "--out", tmp_path / "inpaint.png") == 0
    before = np.asarray(Image.open(icon))
    edited, inpainted = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("edit", "inpaint"))
    assert edited.shape == inpainted.shape == (40, 40, 4)
    np.testing.assert_array_equal(edited[..., 3], before[..., 3])
    outside = np.asarray(Image.open(mask)) == 0
    np.testing.assert_array_equal(inpainted[outside], before[outside])
    assert (inpainted[~outside][:, 3] == 255).all(), "what was drawn is opaque"


def test_an_edit_with_a_mask_keeps_every_pixel_outside_it_and_the_alpha(
    editing_bundle: Path, tmp_path: Path
) -> None:
    icon, mask = _icon(tmp_path / "icon.png"), _mask(tmp_path / "mask.png", (40, 40))
    out = tmp_path / "edit.png"
    words = ("a red circle", "--task", "edit", "--source", icon, "--mask", mask)
    assert _run(editing_bundle, *words, "--out", out) == 0
    before, edited, outside = (
        np.asarray(Image.open(icon)),
        np.asarray(Image.open(out)),
        np.asarray(Image.open(mask)) == 0,
    )
    assert edited.shape == (40, 40, 4) and Image.open(out).info["task"] == "edit"
    np.testing.assert_array_equal(edited[outside], before[outside])
    np.testing.assert_array_equal(edited[..., 3], before[..., 3])
    assert (edited[~outside][:, :3] != before[~outside][:, :3]).any()


@pytest.mark.parametrize(("factor", "canvas"), [(2, [64, 64]), (4, [64, 96])])
def test_super_resolve_is_larger_by_its_factor(
    editing_bundle: Path, tmp_path: Path, capsys: Capture, factor: int, canvas: list[int]
) -> None:
    icon = _icon(tmp_path / "icon.png", (13, 9))
    words = ("--task", "super-resolve", "--source", icon, "--factor", factor, "--out", tmp_path / "large.png")
    assert _run(editing_bundle, *words, "--json") == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["size"] == [9 * factor, 13 * factor] and values["task"] == "super-resolve"
    assert values["drawn_size"] == canvas, (
        "the smallest size that holds it at twice the factor, or the largest"
    )
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (13 * factor, 9 * factor) and image.mode == "RGBA"


def test_super_resolve_draws_a_large_source_in_tiles(
    editing_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    icon = _icon(tmp_path / "icon.png", (40, 30))
    words = ("--task", "super-resolve", "--source", icon, "--factor", 4, "--out", tmp_path / "large.png")
    assert _run(editing_bundle, *words) == 0
    assert "100/100" in capsys.readouterr().err, "5 x 5 tiles of 8 x 12 pixels in 4 steps each"
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (160, 120)


def test_composite_keeps_what_did_not_visibly_change(editing_bundle: Path, tmp_path: Path) -> None:
    """The miniature draws something else everywhere, so a source of its own drawing is left alone."""
    grey = Image.new("L", (96, 64), 120)
    grey.save(tmp_path / "grey.png")
    words = (editing_bundle, "a red circle", "--source", tmp_path / "grey.png")
    assert _run(*words, "--out", tmp_path / "a.png") == 0
    drawn = Image.open(tmp_path / "a.png")
    noisy = np.clip(
        np.asarray(drawn).astype(int) + np.random.default_rng(0).integers(-6, 7, (64, 96, 3)), 0, 255
    )
    Image.fromarray(noisy.astype(np.uint8)).save(tmp_path / "noisy.png")
    words = (editing_bundle, "a red circle", "--source", tmp_path / "noisy.png")
    for name, more in (("whole", ()), ("kept", ("--composite",))):
        assert _run(*words, *more, "--out", tmp_path / f"{name}.png") == 0
    whole, kept = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("whole", "kept"))
    assert np.abs(kept - noisy).mean() < np.abs(whole - noisy).mean()
    same = (kept == noisy).all(2)
    assert same.any() and (kept[~same] == whole[~same]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "--mask", "MASK"), "--mask needs --source"),
        (("a", "--task", "inpaint", "--source", "ICON"), "--task inpaint needs --mask FILE"),
        (("a", "--task", "edit"), "--task edit needs --source FILE"),
        (("--task", "super-resolve", "--source", "ICON", "--mask", "MASK"), "--mask belongs to --task edit and inpaint and vary, not to super-resolve"),
        (("a", "--task", "edit", "--source", "ICON", "--mask", "MASK", "--composite"), "--composite finds the changed part by itself, --mask says which it is; give one of them"),
        (("a", "--task", "generate", "--source", "ICON"), "do not belong to --task generate"),
        (("--source", "ICON"), "Missing argument PROMPT: --task edit needs a prompt"),
        ((" ", "--source", "ICON"), "the prompt is empty"),
        (("a", "--source", "ICON", "--mask", "SMALL"), "has 20x20 pixels, the source 40x40"),
        (("a", "--source", "ICON", "--mask", "BLACK"), "is black, its brightest value is 0 of 255; paint white what is to be generated"),
        (("a", "--source", "ICON", "--factor", "2"), "--factor belongs to --task super-resolve, not to edit"),
        (("--task", "super-resolve", "--source", "ICON", "--factor", "3"), "--factor is 3; allowed: 2, 4"),
        (("--task", "super-resolve", "--source", "LARGE", "--factor", "4"), "takes 37800 tiles, at most 256 are allowed"),
        (("a", "--composite"), "--composite belongs to --task edit, not to generate"),
        (("a", "--source", "missing.png"), "missing.png cannot be read: No such file"),
        (("a", "--source", "ICON", "--size", "32"), "no size 32x32; it has: 64x64, 64x96"),
        (("a", "--source", "ICON", "--steps", "3"), "steps is 3; this bundle allows: 4, 2, 1"),
        (("a", "--source", "ICON", "--target", "coreml"), "no target 'coreml'; it has: onnx"),
    ],
)  # fmt: skip
def test_a_wrong_pairing_is_one_line_exit_2_and_nothing_is_written(
    editing_bundle: Path, tmp_path: Path, capsys: Capture, words: tuple[str, ...], message: str
) -> None:
    files = {
        "ICON": _icon(tmp_path / "icon.png"), "MASK": _mask(tmp_path / "mask.png", (40, 40)),
        "SMALL": _mask(tmp_path / "small.png", (20, 20)), "BLACK": tmp_path / "black.png",
        "LARGE": _mask(tmp_path / "large.png", (1700, 1200)),
    }  # fmt: skip
    Image.new("L", (40, 40)).save(files["BLACK"])
    out = tmp_path / "image.png"
    assert _run(editing_bundle, *(files.get(word, word) for word in words), "--out", out) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and not out.exists()
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


def test_a_bundle_without_the_task_says_which_it_has(
    guided_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    icon = _icon(tmp_path / "icon.png")
    assert _run(guided_bundle, "a", "--source", icon, "--out", tmp_path / "image.png") == 2
    assert "this model has no task for --source; its tasks: generate" in capsys.readouterr().err


def test_drawing_from_a_source_never_imports_torch(editing_bundle: Path, tmp_path: Path) -> None:
    icon = _icon(tmp_path / "icon.png")
    code = (
        "import sys\nfrom microforge.io.console import exit_code\nfrom microforge_runtimes.cli import app\n"
        "print(exit_code(app), 'torch' in sys.modules, 'PIL' in sys.modules)"
    )
    words = [editing_bundle, "a", "--source", icon, "--out", tmp_path / "image.png"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "0 False True", done.stderr


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """A miniature checkpoint with random weights."""
    import torch

    from microforge.pipeline import MicroForgePipeline
    from microforge.sampling import uniform_grid
    from microforge.spec import BackboneSpec, ModelSpec, PlannerSpec, SamplerSpec, TextEncoderSpec, VAESpec
    from microforge.tokenizer import PromptTokenizer, train_tokenizer

    def made(*tasks: str) -> Path:
        spec = ModelSpec(
            "mini", VAESpec((8, 8, 16, 16), 4, (1, 1, 1, 1), (1, 1, 1, 1), 1),
            BackboneSpec(depth=1, dim=64, attn_heads=2, cross_heads=2), PlannerSpec(depth=1, dim=64, num_plan_tokens=4, heads=2),
            TextEncoderSpec(embed_dim=32, num_layers=1, heads=2, vocab_size=320, max_length=16),
            SamplerSpec(uniform_grid(2)), native_size=(64, 64), tasks=tasks,
        )  # fmt: skip
        torch.manual_seed(0)
        pipeline = MicroForgePipeline.from_spec(spec, PromptTokenizer(train_tokenizer(["a red circle"], 320)))
        pipeline.save_pretrained(tmp_path / "checkpoint")
        return tmp_path / "checkpoint"

    return made


def test_a_checkpoint_draws_all_four_tasks_too(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    folder = checkpoint("generate", "edit", "inpaint", "super-resolve")
    icon, mask = _icon(tmp_path / "icon.png", (30, 20)), _mask(tmp_path / "mask.png", (30, 20))
    sizes: list[tuple[int, ...]] = []
    for words in (
        ("a red circle",), ("a red circle", "--source", icon), ("--source", icon, "--mask", mask),
        ("--source", icon, "--task", "super-resolve"),
    ):  # fmt: skip
        out = tmp_path / f"{len(sizes)}.png"
        assert _run(folder, *words, "--out", out, "--json") == 0
        values = json.loads(capsys.readouterr().out.splitlines()[-1])
        sizes.append(tuple(values["size"]))
        assert values["target"] == "torch" and values["steps"] == 2
    assert sizes == [(64, 64), (20, 30), (20, 30), (40, 60)]
    outside = np.asarray(Image.open(mask)) == 0
    found, before = np.asarray(Image.open(tmp_path / "2.png")), np.asarray(Image.open(icon))
    np.testing.assert_array_equal(found[outside], before[outside])


def test_a_checkpoint_is_refused_in_the_same_words(
    checkpoint: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    folder, icon = checkpoint("generate"), _icon(tmp_path / "icon.png")
    assert _run(folder, "a", "--source", icon, "--out", tmp_path / "a.png") == 2
    assert (
        "this model has no task for --source; its tasks: generate, vary (vary: with --strength)"
        in capsys.readouterr().err
    )
    assert _run(folder, "a", "--target", "onnx", "--out", tmp_path / "a.png") == 2
    assert "--target onnx is for bundles" in capsys.readouterr().err
