"""Lowers an ExportedProgram to an ONNX graph with static shapes, whose weights several graphs can share.

The graph of torch's exporter is folded completely: everything that depends on constants only becomes a constant,
transposed weights included, so that the graphs of two image sizes have the same bytes for the same weight.
Everything that varies between two runs (paths, stack traces) is removed. ``shared_weights`` writes the result.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset20, optimizer
from torch.export import ExportedProgram

from microforge.bundle.files import file_entry
from microforge.errors import GraphLintError
from microforge.io.quiet import quiet
from microforge_export.components.component import SourceComponent
from microforge_export.targets.base import TargetFiles
from microforge_export.targets.descriptions import ComponentDescription
from microforge_export.targets.onnx.accelerator_support import usability
from microforge_export.targets.onnx.channels_last import channels_last
from microforge_export.targets.onnx.lint import lint, operator_counts
from microforge_export.targets.onnx.merge_layers import merge_layers
from microforge_export.targets.onnx.rewrites import fewer_operators
from microforge_export.targets.onnx.shared_weights import (
    SharedWeights,
    check_graph,
    shared_digest,
    write_graph,
)

WEIGHTS = "onnx/weights.bin"
#: Opset 20 is the first with Gelu as an operator; later ones have nothing that these graphs use.
OPSET = 20
_op: Any = opset20  # its type annotations do not match what its functions return
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class OnnxArtefacts:
    """One graph per component key."""

    graphs: Mapping[str, ir.Model]

    def lint(self) -> None:
        """Refuse graphs that engines on phones run badly; see ``lint``.

        Raises:
            GraphLintError: names the component and the nodes at fault.
        """
        for key, graph in self.graphs.items():
            lint(key, graph)

    def write(
        self,
        folder: Path,
        descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({}),
    ) -> TargetFiles:
        """Write ``onnx/KEY.onnx`` and the shared weights into the bundle ``folder``; see ``base.Artefacts``.

        Raises:
            GraphLintError: if a written file is not valid ONNX.
        """
        operators = operator_counts(self.graphs.values())
        support = {key: usability(_with_shapes(graph)) for key, graph in self.graphs.items()}
        (folder / WEIGHTS).parent.mkdir()
        files = {key: f"onnx/{key}.onnx" for key in self.graphs}
        with SharedWeights(folder / WEIGHTS) as weights:
            for key, graph in self.graphs.items():
                if key in descriptions:
                    add_description(graph, descriptions[key])
                write_graph(graph, folder / files[key], weights)
        for key, relative in files.items():
            try:
                check_graph(folder / relative)
            except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
                raise GraphLintError(f"{key}: onnx.checker: {' '.join(str(error).split())[:300]}") from None
        return TargetFiles(
            files={key: file_entry(folder, relative) for key, relative in files.items()},
            operators=operators,
            shared_files=(file_entry(folder, WEIGHTS),),
            shared_sha256={key: shared_digest(folder / relative) for key, relative in files.items()},
            usability=support,
        )


def add_description(graph: ir.Model, description: ComponentDescription) -> None:
    """Write the texts of ``description`` into ``graph``: ``metadata_props`` and doc strings."""
    graph.doc_string = graph.graph.doc_string = description.summary
    graph.metadata_props.update(
        {**description.properties, "license": description.licence, "author": description.author}
    )
    for values, texts in (
        (graph.graph.inputs, description.inputs),
        (graph.graph.outputs, description.outputs),
    ):
        for value in values:
            value.doc_string = texts.get(value.name or "")


def _with_shapes(graph: ir.Model) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(ir.to_proto(graph))


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]
) -> OnnxArtefacts:
    """Every component as one ONNX graph in fp32."""
    return OnnxArtefacts({item.key: lower(item, programs[item.key]) for item in components})


def lower(component: SourceComponent, program: ExportedProgram) -> ir.Model:
    """The component as one ONNX graph after operator fusion; inputs and outputs have the declared names."""
    return rewritten(exported(component, program), component)


def rewritten(model: ir.Model, component: SourceComponent) -> ir.Model:
    """The exporter's graph after every rewrite, in place: the same function with fewer operators."""
    model = channels_last(merge_layers(model, component), component)
    return fold(fewer_operators(model))


def exported(component: SourceComponent, program: ExportedProgram) -> ir.Model:
    """The folded graph of torch's exporter, before any rewrite."""
    with quiet("torch.onnx"):  # it warns that torchvision is absent
        result = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
            optimize=False,
            verbose=False,
            custom_translation_table=_TRANSLATIONS,
        )
        assert result is not None
        model = fold(result.model)
    model.graph.name = component.role
    return model


def fold(model: ir.Model) -> ir.Model:
    """Fold constants, merge common subexpressions and remove annotations, in place; returns ``model``."""
    try:
        optimizer.optimize_ir(
            model,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=_depends_on_constants_only,
        )
    except ir.passes.PassError as error:  # such as sequences, which the optimizer does not know
        raise GraphLintError(f"the graph cannot be folded: {_root_cause(error)}") from None
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
        passes.ClearMetadataAndDocStringPass(),  # stack traces and source paths live there
    )(model)
    model.doc_string = None
    model.metadata_props.clear()
    model.graph.doc_string = None
    model.graph.metadata_props.clear()
    for value in _values(model.graph):
        value.metadata_props.clear()
        value.doc_string = None
    return model


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200]


def _depends_on_constants_only(node: ir.Node) -> bool | None:
    """True for a node of constants only. The optimizer alone would not fold the transpose of a shared weight."""
    inputs = [value for value in node.inputs if value is not None]
    return (
        True
        if inputs and all(ir.convenience.get_const_tensor(value) is not None for value in inputs)
        else None
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _pixel_unshuffle(image: Any, downscale_factor: int) -> Any:
    """Space to depth with five axes; that of the exporter has six, which several engines refuse."""
    batch, channels, height, width = (int(side) for side in image.shape)
    rows, columns = height // downscale_factor, width // downscale_factor
    cells = [batch * channels, rows, downscale_factor, columns, downscale_factor]
    deep = [batch, channels * downscale_factor**2, rows, columns]
    split = _op.Reshape(image, _op.Constant(value_ints=cells))
    return _op.Reshape(_op.Transpose(split, perm=[0, 2, 4, 1, 3]), _op.Constant(value_ints=deep))


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.pixel_unshuffle.default: _pixel_unshuffle
}
