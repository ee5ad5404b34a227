"""Lowering small modules to Core ML, run by the interpreter: keep-list, compression, shared weights, equal bytes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microforge.bundle.manifest import Size
from microforge.components.networks import tensor
from microforge.errors import BundleError, GraphLintError
from microforge_export.checks.parity import psnr_db
from microforge_export.components.component import SourceComponent, trace
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.coreml import MilSession
from microforge_runtimes.mil.reader import read_program

pytest.importorskip("coremltools")
from microforge_export.targets.coreml.lower import lower
from microforge_export.targets.coreml.package import merge, save
from microforge_export.targets.coreml.target import RECIPES, lower_all

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def _layers(module: nn.Module, *shape: int, key: str = "layers") -> SourceComponent:
    """``module`` as a component from ``latent`` to ``image``; the names mean nothing here."""
    with torch.no_grad():
        out = module.eval()(torch.ones(shape))
    inputs, outputs = (tensor("latent", *shape),), (tensor("image", *out.shape),)
    return SourceComponent(key, "vae_decoder", Size(height=32, width=32), module, inputs, outputs)


def _written(component: SourceComponent, folder: Path, **options: Any) -> Path:
    save(lower(component, trace(component), **options), folder / f"{component.key}.mlpackage")
    return folder / f"{component.key}.mlpackage"


def _run(component: SourceComponent, folder: Path, x: Tensor, **options: Any) -> tuple[Array, Array]:
    """The component's result by the interpreter, and torch's."""
    path, inputs = _written(component, folder, **options), {"latent": x.numpy()}
    return MilSession(path, component.entry()).run(inputs)["image"], component.evaluate(inputs)["image"]


def _files(package: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()
    }


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class GatedNorm(nn.Module):
    """A sum over tokens, gated and normalised, as the SSM's: its values pass the largest half."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm((x.mT @ x) * x[..., :1].mT)  # type: ignore[no-any-return]


def test_squares_beyond_half_precision_do_not_overflow(tmp_path: Path) -> None:
    result, expected = _run(_layers(PixelNorm(), 1, 8, 4, 4), tmp_path, 1000 * _random(1, 8, 4, 4))
    assert psnr_db(expected, result) > 60


def test_what_only_a_norm_reads_may_pass_the_range_of_half_precision(tmp_path: Path) -> None:
    result, expected = _run(_layers(GatedNorm(), 1, 8, 8), tmp_path, 300 * _random(1, 8, 8).abs())
    assert psnr_db(expected, result) > 50


def test_the_norm_of_zeros_is_zero(tmp_path: Path) -> None:
    result, _ = _run(_layers(nn.RMSNorm(8, eps=1e-6), 1, 8), tmp_path, torch.zeros(1, 8))
    assert not result.any()


def test_an_operator_without_a_lowering_is_refused_with_its_component() -> None:
    class Rare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)  # type: ignore[no-any-return]

    component = _layers(Rare(), 1, 4)
    with pytest.raises(GraphLintError, match=r"layers: coremltools cannot lower it: .*bessel"):
        lower(component, trace(component))


def test_an_operator_that_cannot_be_checked_is_refused_with_its_component() -> None:
    class Sorting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.argsort(-1).float()

    component = _layers(Sorting(), 1, 4)
    artefacts = lower_all([component], {"layers": trace(component)}, RECIPES["fp16"])
    with pytest.raises(GraphLintError, match="layers: operator argsort is not one that the interpreter"):
        artefacts.lint()


def test_a_package_is_never_overwritten(tmp_path: Path) -> None:
    component = _layers(nn.ReLU(), 1, 4)
    model = lower(component, trace(component))
    save(model, tmp_path / "net.mlpackage")
    with pytest.raises(FileExistsError, match=r"net\.mlpackage already exists"):
        save(model, tmp_path / "net.mlpackage")
    with pytest.raises(ValueError, match=r"must end in \.mlpackage"):
        save(model, tmp_path / "net.mlmodel")


class Stack(nn.Module):
    """Learned layers, and two constants that are none."""

    positions: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = (96, 128, 96, 256)
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
        self.register_buffer("positions", torch.randn(40, 96))
        self.register_buffer("order", torch.ones(40, 40).tril() - 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.order @ (x + self.positions))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("weights", "share", "psnr"), [("int8", 0.55, 40), ("palette6", 0.45, 30), ("palette4", 0.35, 20)]
)
@pytest.mark.parametrize("deployment", ["ios17", pytest.param("ios18", marks=pytest.mark.slow)])
def test_compressed_weights_are_smaller_and_near_enough(
    weights: str, share: float, psnr: float, deployment: str, tmp_path: Path
) -> None:
    component, x = _layers(Stack(), 1, 40, 96), _random(1, 40, 96, seed=1)
    (tmp_path / "plain").mkdir()
    plain = _written(component, tmp_path / "plain", deployment=deployment)
    result, expected = _run(component, tmp_path, x, deployment=deployment, weights=weights)
    assert psnr_db(expected, result) > psnr
    package = tmp_path / "layers.mlpackage"
    constants = 40 * 96 * 2 + 40 * 40 * 2  # stay as they are
    small, large = len(_files(package)[WEIGHTS]), len(_files(plain)[WEIGHTS])
    assert small - constants < share * (large - constants)
    operations = read_program(package).function().operations
    assert len([item for item in operations if item.type.startswith("constexpr_")]) == 3


@dataclass(frozen=True)
class Sizes:
    """One network at two sizes, apart and merged."""

    parts: tuple[SourceComponent, ...]
    paths: Mapping[str, Path]
    merged: Path


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Sizes:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(4, 32, 3, padding=1), PixelNorm(), nn.Conv2d(32, 48, 3), nn.PixelShuffle(4)
    )
    parts = tuple(_layers(module, 1, 4, side, 8, key=f"net_{side}") for side in (6, 8))
    folder = tmp_path_factory.mktemp("sizes")
    paths = {item.key: _written(item, folder, deployment="ios18") for item in parts}
    merge(paths, folder / "merged.mlpackage")
    return Sizes(parts, paths, folder / "merged.mlpackage")


def test_a_merged_package_stores_each_weight_once(sizes: Sizes) -> None:
    largest = max((path / WEIGHTS).stat().st_size for path in sizes.paths.values())
    assert (sizes.merged / WEIGHTS).stat().st_size == largest > 2 * 32 * 4 * 9


def test_functions_of_a_merged_package_give_what_they_gave_apart(sizes: Sizes) -> None:
    for component in sizes.parts:
        inputs = {"latent": _random(*component.inputs[0].shape).numpy()}
        apart = MilSession(sizes.paths[component.key], component.entry()).run(inputs)["image"]
        merged = MilSession(sizes.merged, component.entry(), component.key).run(inputs)["image"]
        np.testing.assert_array_equal(merged, apart)
    with pytest.raises(BundleError, match="has no function 'net_7'; it has: net_6, net_8"):
        MilSession(sizes.merged, sizes.parts[0].entry(), "net_7")


def test_two_conversions_and_two_merges_give_the_same_bytes(sizes: Sizes, tmp_path: Path) -> None:
    again = {item.key: _written(item, tmp_path, deployment="ios18") for item in sizes.parts}
    merge(again, tmp_path / "merged.mlpackage")
    for one, two in ((again["net_6"], sizes.paths["net_6"]), (tmp_path / "merged.mlpackage", sizes.merged)):
        assert _files(one) == _files(two)
        assert set(_files(one)) == {"Manifest.json", "Data/com.apple.CoreML/model.mlmodel", WEIGHTS}
        assert b"conversion_date" not in _files(one)["Data/com.apple.CoreML/model.mlmodel"]
        assert {path.stat().st_mode & 0o777 for path in one.rglob("*") if path.is_file()} == {0o644}


def test_merging_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        merge({}, tmp_path / "none.mlpackage")
