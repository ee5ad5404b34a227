"""A decoder with alpha is exported like any other, and runtimes carry its alpha to the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import microforge
from microforge.bundle.files import load_bundle
from microforge.io.console import exit_code
from microforge_runtimes.cli import app
from microforge_runtimes.open_model import Choice, open_model
from tests.conftest import MINIATURE, saved


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with alpha, and its bundle."""
    folder = tmp_path_factory.mktemp("alpha")
    spec = replace(MINIATURE, vae=replace(MINIATURE.vae, alpha=True))
    checkpoint = saved(spec, folder / "model")
    bundle = microforge.export(
        checkpoint, folder / "alpha.mfb", targets=["onnx"], precision="fp32", progress=False
    )
    return checkpoint, bundle


def test_bundle_and_checkpoint_give_the_same_colours_and_alpha(models: tuple[Path, Path]) -> None:
    results = []
    for model in models:
        with open_model(model, Choice()) as editor:
            results.append(editor.generate("a red circle", seed=3))
    torch_result, onnx_result = results
    assert torch_result.alpha is not None and onnx_result.alpha is not None
    assert onnx_result.image.shape == (64, 64, 3) and onnx_result.alpha.shape == (64, 64)
    assert np.abs(torch_result.alpha.astype(int) - onnx_result.alpha).max() <= 1
    assert np.abs(torch_result.image.astype(int) - onnx_result.image).max() <= 1


def test_the_manifest_says_that_the_decoder_gives_four_channels(models: tuple[Path, Path]) -> None:
    manifest = load_bundle(models[1]).manifest
    decoder = next(item for item in manifest.components.values() if item.role == manifest.decode.role)
    assert decoder.outputs[0].shape == (1, 4, 64, 64)


def test_a_transparent_image_has_the_alpha_of_the_model(models: tuple[Path, Path], tmp_path: Path) -> None:
    with open_model(models[1], Choice()) as editor:
        alpha = editor.generate("a red circle", seed=3).alpha
    out = tmp_path / "circle.png"
    words = [str(models[1]), "a red circle", "--seed", "3", "--out", str(out), "--transparent"]
    assert exit_code(app, words) == 0
    with Image.open(out) as image:
        assert image.mode == "RGBA" and (np.asarray(image)[..., 3] == alpha).all()
