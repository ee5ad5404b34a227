"""Both directions of a scan are computed at once: half of the operators, the same numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent
from microforge_export.targets.onnx.lower import exported, fold
from microforge_export.targets.onnx.merge_layers import merge_layers
from microforge_export.targets.onnx.scan_directions import scan_directions


@pytest.fixture
def denoiser(components: tuple[SourceComponent, ...]) -> SourceComponent:
    (item,) = (item for item in components if item.role == "denoiser")
    return item


def both_forms(component: SourceComponent, program: ExportedProgram) -> tuple[ir.Model, ir.Model]:
    """The merged graph as it is, and with scan_directions on every node."""
    plain, rewritten = (merge_layers(exported(component, program), component) for _ in range(2))
    for node in list(rewritten.graph):
        if node.graph is not None:
            scan_directions(rewritten.graph, node)
    return fold(plain), fold(rewritten)


def test_directions_share_their_operators_and_compute_the_same(
    denoiser: SourceComponent, programs: dict[str, ExportedProgram]
) -> None:
    plain, rewritten = both_forms(denoiser, programs[denoiser.key])
    before, after = (Counter(node.op_type for node in model.graph) for model in (plain, rewritten))
    blocks = before["Exp"] // 2
    assert blocks > 0 and after["Exp"] == after["Clip"] == blocks
    assert sum(after.values()) <= sum(before.values()) - 8 * blocks
    rng = np.random.default_rng(0)
    feeds = {spec.name: rng.random(spec.shape).astype(spec.dtype) for spec in denoiser.inputs}
    first, second = (
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, feeds)
        for model in (plain, rewritten)
    )
    for expected, got in zip(first, second, strict=True):
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-4, atol=1e-5)


def test_blocks_with_one_path_share_the_order_of_their_scan(
    denoiser: SourceComponent, programs: dict[str, ExportedProgram]
) -> None:
    _, rewritten = both_forms(denoiser, programs[denoiser.key])
    orders = [name for name in rewritten.graph.initializers if name.startswith("scan.order")]
    paths = sum(node.op_type == "Exp" for node in rewritten.graph)
    assert 0 < len(orders) <= paths
