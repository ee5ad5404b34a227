"""A traced program to one with int8 weights for XNNPACK, group by group, as a recipe says.

``static`` and ``dynamic`` are PT2E, PyTorch's own quantization of exported graphs, with XNNPACK's quantizer:
int8 weights per output channel, and int8 activations with calibrated ranges, or scaled at each run (by the
engine: row by row). ``weight-only`` is for tables: rows of int8 with a scale each, multiplied after they are
picked, so that the table itself never becomes floats and no kernel beyond the portable ones is needed.
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
#: Which schemes an operator can have. XNNPACK computes no layer with int8 weights in fp32, and a convolution
#: with dynamic ranges lowers but does not run (ExecuTorch 1.5).
ALLOWED: Mapping[Kind, tuple[Scheme, ...]] = {
    "matmul": ("dynamic", "static"),
    "conv": ("static",),
    "gather": ("weight-only",),
}
#: The smallest scale. The quantizer's own, 2^-12, leaves a weight below 0.03 fewer than 127 levels.
_SMALLEST = 2.0**-30


def allowed_schemes(program: ExportedProgram) -> dict[str, tuple[Scheme, ...]]:
    """Operator group -> the schemes it can have beside fp32, in the order of the graph."""
    return {group: ALLOWED[_kind(group)] for group in dict.fromkeys(_groups(program.module()).values())}


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
    """A quantized copy of ``program``; ``executorch_ops.simplify`` and the lowering take it as they take that.

    Args:
        schemes: group -> scheme; groups that are not named stay in fp32.
        inputs: recorded inputs of the component; only needed for ``static``.

    Raises:
        SpecError: for a group that the graph has not, a scheme that its operator cannot have, or ``static``
            without recorded inputs.
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
        if scheme not in ALLOWED[_kind(group)]:
            allowed = ", ".join(("fp32", *ALLOWED[_kind(group)]))
            raise SpecError(f"operator group {group!r} cannot be {scheme!r}; allowed: {allowed}")
    if "static" in schemes.values() and not inputs:
        raise SpecError("static quantization needs recorded inputs of the component, got none")


def _kind(group: str) -> Kind:
    return next(kind for kind in ALLOWED if kind == group.split()[0])


def _calibrated(
    module: Any, component: SourceComponent, nodes: Mapping[str, frozenset[str]], inputs: RecordedInputs
) -> Any:
    """``module`` after PT2E: observers, inputs through it, int8 constants."""
    quantizers = [_quantizer(nodes[scheme], scheme == "dynamic") for scheme in ("static", "dynamic")]
    prepared = prepare_pt2e(module, ComposableQuantizer(quantizers))
    if not nodes["static"]:
        prepared(*component.example())  # any input shows weights to their observers
    for values in inputs if nodes["static"] else ():
        prepared(*(torch.from_numpy(np.ascontiguousarray(values[spec.name])) for spec in component.inputs))
    converted = convert_pt2e(prepared)
    # Layers that read one tensor share its scaling. A chain of its own for each lets the partitioner take
    # everything as one piece; without, it fails with "found dependency cycles".
    DuplicateDynamicQuantChainPass()(converted)
    return converted


def _quantizer(names: frozenset[str], dynamic: bool) -> XNNPACKQuantizer:
    """XNNPACK's quantizer for the layers ``names`` alone."""
    config = _config(dynamic)
    chosen: Callable[[fx.Node], bool] = lambda node: node.op != "call_function" or node.name in names  # noqa: E731
    quantizer = XNNPACKQuantizer().set_filter_function(chosen)
    for operator in (aten.linear.default, aten.conv2d.default):
        quantizer.set_operator_type(operator, config)
    return quantizer


def _config(dynamic: bool) -> QuantizationConfig:
    """The quantizer's own configuration per channel, with a smaller smallest scale."""
    usual = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    per_channel = PerChannelMinMaxObserver.with_args(eps=_SMALLEST)
    weight = dataclasses.replace(usual.weight, observer_or_fake_quant_ctr=per_channel)
    if dynamic:
        return dataclasses.replace(usual, weight=weight)
    histogram = HistogramObserver.with_args(eps=_SMALLEST)
    activation = dataclasses.replace(usual.input_activation, observer_or_fake_quant_ctr=histogram)
    return dataclasses.replace(
        usual, weight=weight, input_activation=activation, output_activation=activation
    )


def _quantize_tables(module: Any, names: frozenset[str]) -> None:
    """Replace every look-up among ``names``, in place."""
    made: dict[str, tuple[str, str]] = {}  # a table that several look-ups share is stored once
    for node in [item for item in module.graph.nodes if item.name in names]:
        source, ids = node.args[0].target, node.args[1]
        if source not in made:
            made[source] = (f"_table{len(made)}_int8", f"_table{len(made)}_scale")
            for name, value in zip(made[source], per_row(module.get_parameter(source)), strict=True):
                module.register_buffer(name, value)
        with module.graph.inserting_before(node):
            tables = [module.graph.get_attr(name) for name in made[source]]
            rows, scales = (
                module.graph.call_function(aten.embedding.default, (table, ids)) for table in tables
            )
            floats = module.graph.call_function(aten._to_copy.default, (rows,), {"dtype": torch.float32})
            node.replace_all_uses_with(module.graph.call_function(aten.mul.Tensor, (floats, scales)))
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def per_row(table: Tensor) -> tuple[Tensor, Tensor]:
    """``table`` (V, E) as int8 values (V, E) within -127 ... 127 and scales (V, 1); ``table = values * scales``.

    A row of zeros gets the scale 1.
    """
    scales = row_scales(table)
    return levels(table, scales).to(torch.int8), scales


@contextmanager
def _quiet() -> Iterator[None]:
    """PT2E warns about the torch functions that it uses itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
