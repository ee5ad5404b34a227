"""INT8 for ONNX: quantizes the graph of one component by any schemes, and all graphs of a bundle by a recipe."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from torch.export import ExportedProgram

from microforge_export.components.component import SourceComponent
from microforge_export.components.operator_groups import operator_groups
from microforge_export.quantization.base import CandidateSession, RecordedInputs
from microforge_export.quantization.onnx_quantizer import SUPPORTED, quantize
from microforge_export.recipes.int8_recipe import Int8Recipe, Scheme, resolve, role_schemes
from microforge_export.targets.onnx import lower
from microforge_export.targets.onnx.lower import OnnxArtefacts
from microforge_runtimes.engines.onnx import OnnxSession


@dataclass(frozen=True)
class OnnxQuantizable:
    """A component's fp32 graph that can be quantized by any schemes.

    Attributes:
        component: the component, in PyTorch.
        model: its graph in fp32.
        nodes: node name -> operator group.
        inputs: recorded inputs to calibrate static ranges on.
        ranges: file that stores the calibrated ranges between candidates.
    """

    component: SourceComponent
    model: onnx.ModelProto
    nodes: Mapping[str, str]
    inputs: RecordedInputs
    ranges: Path

    @classmethod
    def make(
        cls, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> OnnxQuantizable:
        """See ``base.QuantizableFactory``."""
        return quantizable(component, lower.lower(component, program), inputs, folder)

    def groups(self) -> dict[str, tuple[Scheme, ...]]:
        """See ``base.QuantizableComponent``. Without recorded inputs no group supports ``static``."""
        supported = {group: SUPPORTED[group.split()[0]] for group in dict.fromkeys(self.nodes.values())}
        if self.inputs:
            return supported
        return {
            group: tuple(item for item in items if item != "static") for group, items in supported.items()
        }

    def quantized(self, schemes: Mapping[str, Scheme]) -> ir.Model:
        """A quantized copy of the graph; a plain copy if every scheme is fp32."""
        quantized = {group: scheme for group, scheme in schemes.items() if scheme != "fp32"}
        if not quantized:
            return ir.from_proto(self.model)
        return quantize(self.model, self.nodes, quantized, self.inputs, self.ranges)

    @contextmanager
    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> Iterator[CandidateSession]:
        """See ``base.QuantizableComponent``."""
        model = self.quantized(schemes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "candidate.onnx"
            path.write_bytes(ir.to_proto(model).SerializeToString())
            session = OnnxSession(path, self.component.entry(), threads)
            try:
                yield CandidateSession(session, constant_bytes(model))
            finally:
                session.close()


def quantizable(
    component: SourceComponent, graph: ir.Model, inputs: RecordedInputs, folder: Path
) -> OnnxQuantizable:
    """A component whose graph is lowered already, ready to be quantized; ``folder`` stores its calibrated ranges."""
    model = ir.to_proto(graph)
    nodes = operator_groups(component, model.graph)
    return OnnxQuantizable(component, model, nodes, inputs, folder / f"{component.key}.ranges.json")


def lower_all_int8(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
    inputs: Mapping[str, RecordedInputs],
) -> OnnxArtefacts:  # fmt: skip
    """See ``base.QuantizedLower``."""
    return quantize_artefacts(lower.lower_all(components, programs), components, recipe, inputs)


def quantize_artefacts(
    artefacts: OnnxArtefacts, components: Sequence[SourceComponent], recipe: Int8Recipe, inputs: Mapping[str, RecordedInputs]
) -> OnnxArtefacts:  # fmt: skip
    """Quantize the graphs of ``artefacts``; components that the recipe does not name are left as they are.

    Args:
        artefacts: graphs in fp32.
        components: the components of these graphs.
        recipe: the schemes.
        inputs: recorded inputs to calibrate static ranges on, by component key.

    Raises:
        SpecError: if the recipe names operator groups that the model does not have.
        GraphLintError: if a quantized graph is not valid ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:
        graphs = {
            item.key: _quantized_graph(
                item, artefacts.graphs[item.key], recipe, inputs.get(item.key, ()), Path(folder)
            )
            for item in components
        }
    return OnnxArtefacts(graphs)


def _quantized_graph(
    component: SourceComponent, graph: ir.Model, recipe: Int8Recipe, inputs: RecordedInputs, folder: Path
) -> ir.Model:
    schemes = role_schemes(recipe, component.role, component.family)
    if not schemes:
        return graph
    prepared = quantizable(component, graph, inputs, folder)
    resolved = resolve(schemes, prepared.groups(), "onnx")
    if set(resolved.values()) == {"fp32"}:
        return graph
    result = prepared.quantized(resolved)
    result.graph.name = graph.graph.name
    return result


def constant_bytes(model: ir.Model) -> int:
    """Size of all constants of a graph."""
    constants = (value.const_value for value in model.graph.initializers.values())
    return sum(value.nbytes for value in constants if value is not None)
