"""Layers that read one tensor are one product: fewer nodes, the same numbers, groups and shared weights."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from microforge.bundle.manifest import Size
from microforge.components.networks import tensor
from microforge_export.components.component import SourceComponent, SourceModel, trace
from microforge_export.components.operator_groups import operator_groups
from microforge_export.quantization.onnx import OnnxQuantizable
from microforge_export.targets.onnx import lower
from microforge_export.targets.onnx.lower import exported
from microforge_export.targets.onnx.merge_layers import merge_layers


class Mixed(nn.Module):
    """Layers of two kinds of x, and one that reads the output of another."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.ModuleDict({name: nn.Linear(6, width) for name, width in (("b", 3), ("a", 2))})
        self.other = nn.ModuleDict({"c": nn.Linear(6, 4), "later": nn.Linear(2, 2)})

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.mixer["a"](x), self.mixer["b"](x)
        return torch.cat([second, self.other["later"](first)], -1), self.other["c"](x)


def mixed(*shape: int) -> SourceComponent:
    torch.manual_seed(0)
    widths = {"y": 5, "z": 4}
    outputs = tuple(tensor(name, *shape[:-1], width) for name, width in widths.items())
    return SourceComponent("mixed", "denoiser", None, Mixed().eval(), (tensor("x", *shape),), outputs)


def weight_shape(product: ir.Node) -> tuple[int, ...]:
    weight = product.inputs[1]
    assert weight is not None and weight.shape is not None
    return weight.shape.numpy()


@pytest.mark.parametrize("shape", [(1, 5, 6), (1, 6)], ids=["tokens", "a vector"])
def test_layers_of_one_input_and_group_become_one_product_with_the_same_numbers(
    shape: tuple[int, ...],
) -> None:
    component = mixed(*shape)
    model = merge_layers(exported(component, trace(component)), component)
    products = [node for node in model.graph if node.op_type in ("MatMul", "Gemm")]
    assert [sorted(weight_shape(node)) for node in products] == [
        [5, 6],  # a and b
        [2, 2],  # reads a
        [4, 6],  # c is of another group
    ]
    (split,) = (node for node in model.graph if node.op_type == "Split")
    assert [value.shape[-1] for value in split.outputs if value.shape is not None] == [2, 3]  # by name
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feeds = {"x": np.random.default_rng(0).random(shape, np.float32)}
    for got, expected in zip(session.run(None, feeds), component.evaluate(feeds).values(), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(expected, np.float32), atol=1e-6)


def test_merged_layers_keep_their_group(
    components: tuple[SourceComponent, ...],
    programs: dict[str, ExportedProgram],
    quantizables: dict[str, OnnxQuantizable],
) -> None:
    for component in components:
        plain = exported(component, programs[component.key])
        apart = operator_groups(component, ir.to_proto(plain).graph)
        layers = set(apart.values()) - {
            "matmul other"
        }  # the order of a scan, in a batched product after the rewrites
        assert layers == set(quantizables[component.key].nodes.values())
    merged = Counter(quantizables["denoiser"].nodes.values())
    assert (
        merged["matmul backbone.blocks.cross"] == 1 + 2 * 2
    )  # keys and values of all blocks; queries and outputs


def test_sizes_go_on_to_share_the_weights_of_merged_layers(source_model: SourceModel) -> None:
    sizes = [Size(height=64, width=64), Size(height=64, width=96)]
    layers = []
    for component in source_model.provider.components(sizes, ["generate"]):
        if component.role == "denoiser":
            graph = lower.lower(component, trace(component)).graph
            large = (value.const_value for value in graph.initializers.values())
            layers.append(
                {item.tobytes() for item in large if item is not None and "merged" in (item.name or "")}
            )
    assert layers[0] == layers[1] and len(layers[0]) > 4
