"""Bundles built from the miniature checkpoint, once per run."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.export import ExportedProgram

from microforge_export.build.builder import build
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel, trace
from microforge_export.providers.microforge import read_model
from microforge_export.quantization.calibration import (
    RecordedSample,
    calibration_inputs,
    record_sample,
    torch_runner,
)
from microforge_export.quantization.onnx import OnnxQuantizable
from microforge_export.recipes.build_recipe import make_recipe


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the miniature at its own size, for every target."""
    return built(checkpoint, tmp_path_factory.mktemp("bundle") / "one.mfb", target="onnx,executorch")


@pytest.fixture(scope="session")
def two_sizes(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the miniature at its own size and at 64 x 96 pixels, for ONNX alone."""
    return built(checkpoint, tmp_path_factory.mktemp("bundle") / "two.mfb", "64", "64x96")


def built(
    checkpoint: Path, out: Path, *sizes: str, target: str = "onnx", tasks: str | None = "generate"
) -> Path:
    recipe = make_recipe(target=target, precision="fp32", sizes=sizes, tasks=tasks)
    build(recipe, lambda: read_model(checkpoint), out)
    return out


@pytest.fixture(scope="session")
def source_model(checkpoint: Path) -> SourceModel:
    return read_model(checkpoint)


@pytest.fixture(scope="session")
def components(source_model: SourceModel) -> tuple[SourceComponent, ...]:
    """The miniature's networks at its own size."""
    return source_model.provider.components([source_model.native_size], ["generate"])


@pytest.fixture(scope="session")
def programs(components: tuple[SourceComponent, ...]) -> dict[str, ExportedProgram]:
    """Their traces, once for all tests: the costly part of most of them."""
    return {item.key: trace(item) for item in components}


@pytest.fixture(scope="session")
def recorded_sample(source_model: SourceModel, components: tuple[SourceComponent, ...]) -> RecordedSample:
    """One drawing by torch with every evaluation."""
    return record_sample(source_model, components, torch_runner(components), SampleRequest("a red circle", 0))


@pytest.fixture(scope="session")
def quantizables(
    components: tuple[SourceComponent, ...], programs: dict[str, ExportedProgram], recorded_sample: RecordedSample,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, OnnxQuantizable]:  # fmt: skip
    """The miniature's fp32 ONNX graphs, ready for any choice of schemes."""
    folder = tmp_path_factory.mktemp("ranges")
    return {
        item.key: OnnxQuantizable.make(
            item, programs[item.key], calibration_inputs([recorded_sample], item.role, 8), folder
        )
        for item in components
    }
