"""The exporter knows components, not MicroForge: a model of any library can be built, and is refused alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import Guidance, Latent, Sampler, Size, Task
from microforge.bundle.targets import TargetName
from microforge.errors import GraphLintError, ParityError
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS
from microforge_export.build.builder import build
from microforge_export.components.component import SourceComponent, SourceModel, TokenizerSource, tensor
from microforge_export.recipes.build_recipe import Recipe, Thresholds, make_recipe
from microforge_runtimes import Generator

L, E, C = 8, 6, 2


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(320, E)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        text = self.table(ids)
        return text, text.mean(1)


class PlainDenoiser(nn.Module):
    """No mask, no plan: the optional tensors of the interface are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(C, C, 1)
        self.shift = nn.Linear(E, C)

    def forward(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + self.shift(text.mean(1))[:, :, None, None] * t)


class Decoder(nn.Module):
    def __init__(self, largest: bool = False) -> None:
        super().__init__()
        self.largest, self.out = largest, nn.Conv2d(C, 3, 1)

    def forward(self, latent: Tensor) -> Tensor:
        if self.largest:  # the shape of nonzero() depends on values
            latent = latent * (latent > 0).nonzero().sum()
        return torch.sigmoid(self.out(latent)).repeat_interleave(32, 2).repeat_interleave(32, 3)


@dataclass(frozen=True)
class OtherLibrary:
    """Small networks, and a pipeline of its own that requests black."""

    parts: tuple[SourceComponent, ...]

    def components(
        self, sizes: Sequence[Size], tasks: Sequence[Task] = ("generate",)
    ) -> tuple[SourceComponent, ...]:
        return self.parts

    def draw(self, prompt: str, seed: int, size: Size) -> NDArray[np.float32]:
        return np.zeros((1, 3, size.height, size.width), np.float32)

    def redraw(
        self, task: Task, prompt: str | None, seed: int, source: NDArray[np.float32], mask: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:  # fmt: skip
        raise NotImplementedError


def networks() -> tuple[SourceComponent, ...]:
    torch.manual_seed(0)
    size = Size(height=32, width=64)
    ids, text, latent = (
        tensor("ids", 1, L, dtype="int64"),
        tensor("text", 1, L, E),
        tensor("latent", 1, C, 1, 2),
    )
    z, velocity = (tensor(name, 1, C, 1, 2) for name in ("z", "velocity"))
    image = tensor("image", 1, 3, 32, 64)
    return (
        SourceComponent("words", "text_encoder", None, TextEncoder(), (ids,), (text, tensor("pooled", 1, E))),
        SourceComponent("steps", "denoiser", size, PlainDenoiser(), (z, tensor("t", 1), text), (velocity,)),
        SourceComponent("pixels", "vae_decoder", size, Decoder(), (latent,), (image,)),
    )


def source(checkpoint: Path, provider: OtherLibrary) -> SourceModel:
    return SourceModel(
        provider=provider,
        description={"name": "other"},
        sampler=Sampler(
            timesteps=(1.0, 0.5, 0.0), guidance=Guidance(text=1.0, image=1.0), prediction="velocity"
        ),
        latent=Latent(channels=C, downsample=32, mean=(0.0,) * C, std=(1.0,) * C),
        native_size=Size(height=32, width=64),
        tasks=("generate",),
        tokenizer=TokenizerSource(
            checkpoint / "tokenizer.json", L, PAD, BOS, EOS, {"generate": TASK_IDS["generate"]}
        ),
        checkpoint_sha256="0" * 64,
    )


def recipe(component_db: float = 60.0, image: float = 255.0, target: str = "onnx") -> Recipe:
    made = make_recipe(target=target, precision="fp32", sizes=(), tasks="generate")
    limits = Thresholds(component_psnr_db=component_db, image_max_diff_255=image)
    return replace(made, targets=tuple(replace(target, thresholds=limits) for target in made.targets))


def test_components_without_mask_and_plan_build_and_draw_on_every_target(
    checkpoint: Path, tmp_path: Path
) -> None:
    names: tuple[TargetName, ...] = ("executorch", "coreml", "onnx")
    out = tmp_path / "other.mfb"
    build(recipe(target=",".join(names)), lambda: source(checkpoint, OtherLibrary(networks())), out)
    manifest = load_bundle(out).manifest
    assert set(manifest.components) == {"words", "steps", "pixels"} and tuple(manifest.targets) == names
    images = []
    for name in names:
        assert set(manifest.targets[name].files) == set(manifest.components)
        with Generator(out, name) as generator:
            images.append(generator.generate("a red circle").image.astype(int))
    assert images[0].shape == (32, 64, 3) and images[0].std() > 0
    assert max(np.abs(image - images[0]).max() for image in images) <= 1
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert tuple(report["targets"]) == names
    assert {"torch", "onnxruntime", "executorch", "coremltools"} <= set(manifest.provenance.versions)


def test_a_component_below_its_threshold_is_named_and_nothing_is_left(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match=r"steps has \d+\.\d dB, needed: 201 dB"):
        build(
            recipe(component_db=201), lambda: source(checkpoint, OtherLibrary(networks())), tmp_path / "x.mfb"
        )
    assert not list(tmp_path.iterdir())


def test_a_drawing_unlike_the_librarys_own_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"image of 'a red circle' at 32x64 differs by \d+\.\d+/255, allowed: 2/255"
    ):
        build(recipe(image=2), lambda: source(checkpoint, OtherLibrary(networks())), tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_depends_on_values_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    words, steps, pixels = networks()
    parts = words, steps, replace(pixels, module=Decoder(largest=True))
    with pytest.raises(GraphLintError, match=r"pixels: "):
        build(recipe(), lambda: source(checkpoint, OtherLibrary(parts)), tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())
