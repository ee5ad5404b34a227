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

from microforge.bundle.files import file_entry, load_bundle
from microforge.bundle.inputs import (
    Concat,
    Encoded,
    EncoderEntry,
    Latent,
    Sized,
    Time,
    Tokenizer,
    Tokens,
    Values,
)
from microforge.bundle.manifest import Driving, ModelEntry, Size
from microforge.bundle.sampling import (
    BranchEntry,
    DecoderEntry,
    LatentSpace,
    SamplerRow,
    SamplerTable,
    Scale,
    Task,
    Weight,
)
from microforge.bundle.targets import TargetName
from microforge.components.networks import tensor
from microforge.errors import GraphLintError, ParityError
from microforge_export.build.builder import build
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.recipes.build_recipe import Recipe, Thresholds, make_recipe
from microforge_runtimes import Generator, Request

L, E, C = 8, 6, 2


class TextEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(320, E)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        text = self.table(ids)
        return text, text.mean(1)


class PlainUNet(nn.Module):
    """Predicts noise from a sample, a time, encoder states and two numbers beside the pooled text."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(C, C, 1)
        self.shift = nn.Linear(2 * E + 2, C)

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor, extra: Tensor) -> Tensor:
        condition = self.shift(torch.cat([states.mean(1), extra], 1))[:, :, None, None]
        return torch.tanh(self.mix(sample) + condition * timestep / 999)


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
    """Small networks with names of their own, and a pipeline that returns black."""

    parts: tuple[SourceComponent, ...]
    tokenizer: Path

    def components(self, sizes: Sequence[Size], tasks: Sequence[str]) -> tuple[SourceComponent, ...]:
        return self.parts

    def driving(self, tasks: Sequence[str]) -> Driving:
        """Two steps of a solver with history and fresh noise, and classifier-free guidance."""
        encoded = {
            name: Encoded(kind="encoded", encoder="clip", output=name) for name in ("states", "pooled")
        }
        extra = (
            Sized(length=E, part=encoded["pooled"]), Sized(length=2, part=Values(kind="values", values=(32.0, 64.0))),
        )  # fmt: skip
        file = file_entry(self.tokenizer.parent, self.tokenizer.name)
        weights = Weight(constant=0.0, scales={"cfg": 1.0}), Weight(constant=1.0, scales={"cfg": -1.0})
        return Driving(
            latent=LatentSpace(channels=C, downsample=32, mean=(0.1,) * C, std=(2.0,) * C),
            tokenizers={"clip": Tokenizer(file=file, length=L, prefix={"paint": ()}, suffix=(2,), pad=2)},
            encoders={"clip": EncoderEntry(role="clip", inputs={"input_ids": Tokens(kind="tokens", tokenizer="clip")})},
            conditions={
                "sample": Latent(kind="latent"), "timestep": Time(kind="time"), "states": encoded["states"],
                "extra": Concat(kind="concat", axis=1, parts=extra),
            },
            guidance={"cfg": Scale(default=2.0, low=0.0, high=9.0)},
            samplers=(
                SamplerTable(steps=2, times=(999.0, 500.0), first=0.9, rows=(
                    SamplerRow(u=(0.8,), m=(-0.3,), noise=0.1), SamplerRow(u=(0.9, 0.05), m=(-0.5, 0.1)),
                )),
            ),
            tasks={
                "paint": Task(
                    network="unet", output="eps", prompt="required",
                    branches=(BranchEntry(prompt="user", weight=weights[0]), BranchEntry(prompt="empty", weight=weights[1])),
                )
            },
            decode=DecoderEntry(role="taesd"),
        )  # fmt: skip

    def prompts(self, count: int, seed: int) -> tuple[str, ...]:
        return tuple(f"a red circle {seed + index}" for index in range(count))

    def reference(self, request: Request, size: Size) -> NDArray[np.float32]:
        return np.zeros((1, 3, size.height, size.width), np.float32)


def networks() -> tuple[SourceComponent, ...]:
    torch.manual_seed(0)
    size = Size(height=32, width=64)
    ids, states, latent = (
        tensor("input_ids", 1, L, dtype="int64"),
        tensor("states", 1, L, E),
        tensor("latent", 1, C, 1, 2),
    )
    sample, eps = (tensor(name, 1, C, 1, 2) for name in ("sample", "eps"))
    image, extra = tensor("image", 1, 3, 32, 64), tensor("extra", 1, E + 2)
    inputs = (sample, tensor("timestep", 1), states, extra)
    return (
        SourceComponent("words", "clip", None, TextEncoder(), (ids,), (states, tensor("pooled", 1, E))),
        SourceComponent("steps", "unet", size, PlainUNet(), inputs, (eps,)),
        SourceComponent("pixels", "taesd", size, Decoder(), (latent,), (image,)),
    )


def source(checkpoint: Path, parts: tuple[SourceComponent, ...]) -> SourceModel:
    return SourceModel(
        provider=OtherLibrary(parts, checkpoint / "tokenizer.json"),
        about=ModelEntry(name="other"),
        native_size=Size(height=32, width=64),
        tasks=("paint",),
        files={"tokenizer.json": checkpoint / "tokenizer.json"},
        requests=(SampleRequest("a red circle", 0), SampleRequest("a blue square", 1, "paint")),
        checkpoint_sha256="0" * 64,
    )


def recipe(component_db: float = 60.0, image: float = 255.0, target: str = "onnx") -> Recipe:
    made = make_recipe(target=target, precision="fp32", sizes=(), tasks="paint")
    limits = Thresholds(component_psnr_db=component_db, image_max_diff_255=image)
    return replace(made, targets=tuple(replace(target, thresholds=limits) for target in made.targets))


def test_a_model_with_names_of_its_own_builds_and_samples_on_every_target(
    checkpoint: Path, tmp_path: Path
) -> None:
    names: tuple[TargetName, ...] = ("executorch", "coreml", "onnx")
    out = tmp_path / "other.mfb"
    build(recipe(target=",".join(names)), lambda: source(checkpoint, networks()), out)
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
    assert manifest.targets["onnx"].peaks["32x64"].staged > 0 and manifest.preview is not None
    assert {"torch", "onnxruntime", "executorch", "coremltools"} <= set(manifest.provenance.versions)


def test_a_component_below_its_threshold_is_named_and_nothing_is_left(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match=r"steps has \d+\.\d dB, needed: 201 dB"):
        build(recipe(component_db=201), lambda: source(checkpoint, networks()), tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())


def test_a_sample_unlike_the_librarys_own_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"image of 'a red circle' at 32x64 differs by \d+\.\d+/255, allowed: 2/255"
    ):
        build(recipe(image=2), lambda: source(checkpoint, networks()), tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_depends_on_values_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    words, steps, pixels = networks()
    parts = words, steps, replace(pixels, module=Decoder(largest=True))
    with pytest.raises(GraphLintError, match=r"pixels: "):
        build(recipe(), lambda: source(checkpoint, parts), tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())
