"""Between convolutions everything is in channels-last order: the same numbers, one norm operator, no shuffled pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent, SourceModel, trace
from microforge_export.components.operator_groups import operator_groups
from microforge_export.targets.onnx.channels_last import channels_last
from microforge_export.targets.onnx.lower import exported, fold, lower


@dataclass(frozen=True)
class Lowered:
    """A network of the autoencoder, before and after all rewrites."""

    component: SourceComponent
    exported: onnx.ModelProto
    graph: onnx.ModelProto


@pytest.fixture(scope="module", params=["vae_decoder", "vae_encoder"])
def lowered(request: pytest.FixtureRequest, source_model: SourceModel) -> Lowered:
    components = source_model.provider.components([source_model.native_size], source_model.tasks)
    (component,) = (item for item in components if item.role == request.param)
    program = trace(component)
    plain, graph = exported(component, program), lower(component, program)
    return Lowered(component, ir.to_proto(plain), ir.to_proto(graph))


def test_graph_computes_the_same_as_the_network(lowered: Lowered) -> None:
    onnx.checker.check_model(lowered.graph, full_check=True)
    session = onnxruntime.InferenceSession(lowered.graph.SerializeToString())
    component = lowered.component
    (spec,) = component.inputs
    feeds = {spec.name: np.random.default_rng(0).random(spec.shape, np.float32)}
    assert [item.name for item in session.get_outputs()] == [item.name for item in component.outputs]
    for got, expected in zip(session.run(None, feeds), component.evaluate(feeds).values(), strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_norms_are_one_operator_of_onnx_runtime(lowered: Lowered, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(lowered.graph.SerializeToString(), options)
    kinds = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    norms = sum(name.endswith("norm.gain") for name, _ in lowered.component.module.named_parameters())
    assert norms > 0 and kinds["SimplifiedLayerNormalization"] == norms


def test_changed_weights_keep_their_group(lowered: Lowered) -> None:
    groups = [
        Counter(operator_groups(lowered.component, model.graph).values())
        for model in (lowered.exported, lowered.graph)
    ]
    assert groups[0] == groups[1]


def test_decoder_shuffles_rows_of_channels_instead_of_pixels(
    components: tuple[SourceComponent, ...], programs: dict[str, ExportedProgram]
) -> None:
    (decoder,) = (item for item in components if item.role == "vae_decoder")
    kinds = Counter(node.op_type for node in lower(decoder, programs[decoder.key]).graph)
    assert kinds["DepthToSpace"] == 1  # the last one, to the pixels of the image
    assert (
        kinds["Mul"] == sum(item == "Sigmoid" for item in kinds.elements()) + kinds["Div"]
    )  # SiLU and gains


def test_graph_of_tokens_is_left_as_it_is(
    components: tuple[SourceComponent, ...], programs: dict[str, ExportedProgram]
) -> None:
    (denoiser,) = (item for item in components if item.role == "denoiser")
    model = exported(denoiser, programs[denoiser.key])
    before = [node.op_type for node in model.graph]
    assert [node.op_type for node in fold(channels_last(model, denoiser)).graph] == before
