"""Recipes for Core ML: packages with compressed weights, checked by the interpreter, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microforge.bundle.manifest import Role, Size, TensorSpec
from microforge.components.networks import tensor
from microforge.errors import SpecError
from microforge_export.checks.golden import Array
from microforge_export.checks.parity import psnr_db
from microforge_export.components.component import SourceComponent, trace
from microforge_export.recipes.int8_recipe import Host, Int8Recipe, Scheme

pytest.importorskip("coremltools")
from microforge_export.quantization.coreml import CoreMLQuantizable, lower_all_int8
from microforge_runtimes.engines.coreml import MilSession
from microforge_runtimes.mil.reader import read_program

WIDTH = 96


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(200, WIDTH)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.SiLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        text = self.layers(self.tokens(ids) * mask.unsqueeze(-1))
        return text, text[:, 0]


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 64, 3, padding=1), nn.SiLU(), nn.Conv2d(64, 48, 3, padding=1)
        )

    def forward(self, latent: Tensor) -> Tensor:
        return torch.pixel_shuffle(self.layers(latent), 4)


def components() -> tuple[SourceComponent, SourceComponent]:
    torch.manual_seed(0)
    return (
        SourceComponent(
            "words", "text_encoder", None, Tower().requires_grad_(False),
            (tensor("ids", 1, 6, dtype="int64"), tensor("mask", 1, 6)),
            (tensor("text", 1, 6, WIDTH), tensor("pooled", 1, WIDTH)),
        ),
        SourceComponent(
            "pixels", "vae_decoder", Size(height=32, width=32), Pixels().requires_grad_(False),
            (tensor("latent", 1, 4, 8, 8),), (tensor("image", 1, 3, 32, 32),),
        ),
    )  # fmt: skip


def one_input(component: SourceComponent) -> dict[str, Array]:
    generator = np.random.default_rng(0)

    def values(spec: TensorSpec) -> Array:
        if spec.dtype == "int64":
            return generator.integers(0, 200, spec.shape)
        return generator.normal(size=spec.shape).astype(np.float32)

    return {spec.name: values(spec) for spec in component.inputs}


def psnr(component: SourceComponent, session: MilSession) -> float:
    """The worst output by the interpreter against torch."""
    inputs = one_input(component)
    results = session.run(inputs)
    return min(psnr_db(value, results[name]) for name, value in component.evaluate(inputs).items())


def recipe(schemes: Mapping[Role, Mapping[str, Scheme]]) -> Int8Recipe:
    host = Host(machine="none", instructions=(), threads=1)
    return Int8Recipe(model="miniature", target="coreml", host=host, schemes=schemes)


def files(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in folder.rglob("*") if item.is_file()}


@pytest.mark.parametrize("deployment", ["ios17", "ios18"])
def test_each_component_is_stored_as_the_recipe_says(deployment: str, tmp_path: Path) -> None:
    parts = components()
    chosen = recipe({"text_encoder": {"*": "palettize6"}, "vae_decoder": {"weights": "linear8"}})
    programs = {item.key: trace(item) for item in parts}
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        artefacts = lower_all_int8(parts, programs, recipe=chosen, inputs={}, deployment=deployment)  # type: ignore[arg-type]
        artefacts.lint()
        written.append(artefacts.write(tmp_path / name))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    kinds = {"ios17": "constexpr_affine_dequantize", "ios18": "constexpr_blockwise_shift_scale"}
    expected = {"words": "constexpr_lut_to_dense", "pixels": kinds[deployment]}
    for item in parts:
        path = tmp_path / "one" / written[0].files[item.key].path
        operations = read_program(path).function().operations
        used = {operation.type for operation in operations if operation.type.startswith("constexpr_")}
        assert used == {expected[item.key]}, item.key
        assert 30 < psnr(item, MilSession(path, item.entry())) < 70
        stored = sum(part.bytes for part in written[0].parts[item.key] if part.path.endswith("weight.bin"))
        assert stored < 0.55 * item.weight_bytes() / 2, "fp16 has half of fp32's bytes"


def test_a_component_that_no_recipe_names_stays_in_half_precision(tmp_path: Path) -> None:
    words, _ = components()
    written = lower_all_int8([words], {"words": trace(words)}, recipe=recipe({}), inputs={}).write(tmp_path)
    path = tmp_path / written.files["words"].path
    assert not [
        item for item in read_program(path).function().operations if item.type.startswith("constexpr_")
    ]
    assert psnr(words, MilSession(path, words.entry())) > 60


def test_fewer_bits_are_smaller_and_less_exact() -> None:
    _, pixels = components()
    draft = CoreMLQuantizable.make(pixels, trace(pixels), (), Path())
    assert draft.groups() == {"weights": ("linear8", "palettize6", "palettize4")}
    metrics = []
    for schemes in ({}, {"weights": "linear8"}, {"weights": "palettize6"}, {"weights": "palettize4"}):
        with draft.candidate(schemes) as trial:  # type: ignore[arg-type]
            assert isinstance(trial.session, MilSession)
            metrics.append((trial.bytes, psnr(pixels, trial.session)))
    assert metrics == sorted(metrics, reverse=True) and len(set(metrics)) == 4


def test_another_operator_group_is_refused() -> None:
    words, _ = components()
    wrong = recipe({"text_encoder": {"matmul layers": "linear8"}})
    with pytest.raises(SpecError, match="operator group 'matmul layers'; this model has: weights"):
        lower_all_int8([words], {"words": trace(words)}, recipe=wrong, inputs={})
