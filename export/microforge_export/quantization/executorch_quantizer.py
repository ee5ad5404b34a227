"""Quantizes a traced program to int8 weights for XNNPACK, one operator group at a time.

``static`` and ``dynamic`` are PT2E, PyTorch's quantization of exported graphs, with XNNPACK's quantizer. Weights
are int8 per output channel. Activations are int8 with calibrated ranges, or scaled by the engine row by row in
every evaluation. ``weight-only`` is for embedding tables: int8 rows with a scale each, multiplied after the look-up,
so that the table is never converted to floats and only portable kernels are needed.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from executorch.backends.transforms.duplicate_dynamic_quant_chain import DuplicateDynamicQuantChainPass
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from torch import Tensor, fx
from torch.export import ExportedProgram
from torchao.quantization.pt2e.observer import HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer, QuantizationConfig

from microforge.errors import SpecError
from microforge.training.distillation.int8_grid import levels, row_scales
from microforge_export.components.component import SourceComponent
from microforge_export.components.group_names import Kind, group_name
from microforge_export.quantization.base import RecordedInputs
from microforge_export.recipes.int8_recipe import Scheme

aten = torch.ops.aten
#: The operators with weights that quantization changes: their kind, and the position of the weight.
_OPERATORS: Mapping[object, tuple[Kind, int]] = {
    aten.linear.default: ("matmul", 1),
    aten.conv2d.default: ("conv", 1),
    aten.embedding.default: ("gather", 0),
}
#: The schemes that each kind of operator supports. XNNPACK cannot compute a layer with int8 weights in fp32, and a
#: convolution with dynamic ranges is lowered but does not run (ExecuTorch 1.5).
SUPPORTED: Mapping[Kind, tuple[Scheme, ...]] = {
    "matmul": ("dynamic", "static"),
    "conv": ("static",),
    "gather": ("weight-only",),
}
#: Smallest scale. The default of the quantizer, 2^-12, leaves fewer than 127 levels to weights below 0.03.
_SMALLEST_SCALE = 2.0**-30


def supported_schemes(program: ExportedProgram) -> dict[str, tuple[Scheme, ...]]:
    """Operator group -> the quantized schemes that it supports, in the order of the graph."""
    return {group: SUPPORTED[_kind(group)] for group in dict.fromkeys(_groups(program.module()).values())}


def _groups(module: Any) -> dict[str, str]:
    """Node name -> operator group, of every node of a traced module with a weight, in the order of the graph."""
    groups = {}
    for node in module.graph.nodes:
        kind, position = _OPERATORS.get(node.target, (None, 0))
        if kind is not None and node.args[position].op == "get_attr":
            groups[node.name] = group_name(kind, node.args[position].target)
    return groups


@torch.no_grad()
def quantize(
    component: SourceComponent,
    program: ExportedProgram,
    schemes: Mapping[str, Scheme],
    inputs: RecordedInputs,
) -> ExportedProgram:
    """Quantize a copy of ``program``, which can be simplified and lowered like the program itself.

    Args:
        component: the component, in PyTorch.
        program: its traced program.
        schemes: operator group -> scheme; groups that are not named stay in fp32.
        inputs: recorded inputs of the component; only needed for ``static``.

    Raises:
        SpecError: if a group is unknown, does not support its scheme, or is ``static`` without recorded inputs.
    """
    module: Any = program.module()  # its graph is a copy, its weights are not
    groups = _groups(module)
    _check(schemes, groups, inputs)
    nodes = {
        scheme: frozenset(name for name, group in groups.items() if schemes.get(group) == scheme)
        for scheme in ("static", "dynamic", "weight-only")
    }
    with _quiet():
        if nodes["static"] or nodes["dynamic"]:
            module = _calibrated(module, component, nodes, inputs)
        _quantize_tables(module, nodes["weight-only"])
        return torch.export.export(module, component.example(), strict=False)


def _check(schemes: Mapping[str, Scheme], groups: Mapping[str, str], inputs: RecordedInputs) -> None:
    known = dict.fromkeys(groups.values())
    for group, scheme in schemes.items():
        if scheme == "fp32":
            continue
        if group not in known:
            raise SpecError(
                f"the recipe names an operator group {group!r}; this model has: {', '.join(known)}"
            )
        if scheme not in SUPPORTED[_kind(group)]:
            allowed = ", ".join(("fp32", *SUPPORTED[_kind(group)]))
            raise SpecError(f"operator group {group!r} cannot be {scheme!r}; allowed: {allowed}")
    if "static" in schemes.values() and not inputs:
        raise SpecError("static quantization needs recorded inputs of the component, got none")


def _kind(group: str) -> Kind:
    return next(kind for kind in SUPPORTED if kind == group.split()[0])


def _calibrated(
    module: Any, component: SourceComponent, nodes: Mapping[str, frozenset[str]], inputs: RecordedInputs
) -> Any:
    """``module`` after PT2E: insert observers, run the recorded inputs, convert constants to int8."""
    quantizers = [_quantizer(nodes[scheme], scheme == "dynamic") for scheme in ("static", "dynamic")]
    prepared = prepare_pt2e(module, ComposableQuantizer(quantizers))
    if not nodes["static"]:
        prepared(*component.example())  # any input lets the observers see the weights
    for values in inputs if nodes["static"] else ():
        prepared(*(torch.from_numpy(np.ascontiguousarray(values[spec.name])) for spec in component.inputs))
    converted = convert_pt2e(prepared)
    # Layers that read the same tensor share its scaling, and the partitioner then fails with "found dependency
    # cycles". With one chain per layer it takes the whole graph as one partition.
    DuplicateDynamicQuantChainPass()(converted)
    return converted


def _quantizer(names: frozenset[str], dynamic: bool) -> XNNPACKQuantizer:
    """XNNPACK's quantizer, restricted to the layers ``names``."""
    config = _config(dynamic)
    is_selected: Callable[[fx.Node], bool] = lambda node: node.op != "call_function" or node.name in names  # noqa: E731
    quantizer = XNNPACKQuantizer().set_filter_function(is_selected)
    for operator in (aten.linear.default, aten.conv2d.default):
        quantizer.set_operator_type(operator, config)
    return quantizer


def _config(dynamic: bool) -> QuantizationConfig:
    """The default configuration per channel, with ``_SMALLEST_SCALE``."""
    default = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    per_channel = PerChannelMinMaxObserver.with_args(eps=_SMALLEST_SCALE)
    weight = dataclasses.replace(default.weight, observer_or_fake_quant_ctr=per_channel)
    if dynamic:
        return dataclasses.replace(default, weight=weight)
    histogram = HistogramObserver.with_args(eps=_SMALLEST_SCALE)
    activation = dataclasses.replace(default.input_activation, observer_or_fake_quant_ctr=histogram)
    return dataclasses.replace(
        default, weight=weight, input_activation=activation, output_activation=activation
    )


def _quantize_tables(module: Any, names: frozenset[str]) -> None:
    """Replace the look-ups ``names`` by look-ups in int8 tables, in place."""
    tables: dict[str, tuple[str, str]] = {}  # a table that several look-ups share is stored once
    for node in [item for item in module.graph.nodes if item.name in names]:
        source, ids = node.args[0].target, node.args[1]
        if source not in tables:
            tables[source] = (f"_table{len(tables)}_int8", f"_table{len(tables)}_scale")
            for name, value in zip(tables[source], per_row(module.get_parameter(source)), strict=True):
                module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            constants = [module.graph.get_attr(name) for name in tables[source]]
            rows, scales = (
                module.graph.call_function(aten.embedding.default, (table, ids)) for table in constants
            )
            floats = module.graph.call_function(aten._to_copy.default, (rows,), {"dtype": torch.float32})
            node.replace_all_uses_with(module.graph.call_function(aten.mul.Tensor, (floats, scales)))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def per_row(table: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize ``table`` (V, E) to int8 values (V, E) in -127 ... 127 and scales (V, 1): ``table = values * scales``.

    A row of zeros has the scale 1.
    """
    scales = row_scales(table)
    return levels(table, scales).to(torch.int8), scales


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PT2E's warnings about the torch functions that it uses itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
