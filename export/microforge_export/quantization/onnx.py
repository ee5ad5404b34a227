"""INT8 for ONNX: a component's fp32 graph to any choice of schemes, and a whole bundle's graphs by a recipe."""

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
from microforge_export.quantization.onnx_quantizer import ALLOWED, quantize
from microforge_export.recipes.int8_recipe import Int8Recipe, Scheme, resolve, role_schemes
from microforge_export.targets.onnx import lower
from microforge_export.targets.onnx.lower import OnnxArtefacts
from microforge_runtimes.engines.onnx import OnnxSession


@dataclass(frozen=True)
class OnnxQuantizable:
    """A component's fp32 graph, the operator group of each of its nodes, and inputs to calibrate with."""

    component: SourceComponent
    model: onnx.ModelProto
    nodes: Mapping[str, str]
    inputs: RecordedInputs
    ranges: Path  # calibrated ranges, kept between trials

    @classmethod
    def make(
        cls, component: SourceComponent, program: ExportedProgram, inputs: RecordedInputs, folder: Path
    ) -> OnnxQuantizable:
        """See ``base.QuantizableFactory``."""
        return draft(component, lower.lower(component, program), inputs, folder)

    def groups(self) -> dict[str, tuple[Scheme, ...]]:
        """See ``base.QuantizableComponent``. Without recorded inputs nothing can be static."""
        allowed = {group: ALLOWED[group.split()[0]] for group in dict.fromkeys(self.nodes.values())}
        if self.inputs:
            return allowed
        return {group: tuple(item for item in items if item != "static") for group, items in allowed.items()}

    def quantized(self, schemes: Mapping[str, Scheme]) -> ir.Model:
        """An INT8 copy; without any scheme but fp32, the graph itself."""
        chosen = {group: scheme for group, scheme in schemes.items() if scheme != "fp32"}
        if not chosen:
            return ir.from_proto(self.model)
        return quantize(self.model, self.nodes, chosen, self.inputs, self.ranges)

    @contextmanager
    def candidate(
        self, schemes: Mapping[str, Scheme], threads: int | None = None
    ) -> Iterator[CandidateSession]:
        """See ``base.QuantizableComponent``."""
        model = self.quantized(schemes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            path.write_bytes(ir.to_proto(model).SerializeToString())
            session = OnnxSession(path, self.component.entry(), threads)
            try:
                yield CandidateSession(session, constant_bytes(model))
            finally:
                session.close()


def draft(
    component: SourceComponent, graph: ir.Model, inputs: RecordedInputs, folder: Path
) -> OnnxQuantizable:
    """A draft of a component that was lowered already; ``folder`` keeps its calibrated ranges."""
    model = ir.to_proto(graph)
    nodes = operator_groups(component, model.graph)
    return OnnxQuantizable(component, model, nodes, inputs, folder / f"{component.key}.ranges.json")


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], *, recipe: Int8Recipe,
    inputs: Mapping[str, RecordedInputs],
) -> OnnxArtefacts:  # fmt: skip
    """See ``base.QuantizedLower``."""
    return quantize_artefacts(lower.lower_all(components, programs), components, recipe, inputs)


def quantize_artefacts(
    artefacts: OnnxArtefacts, components: Sequence[SourceComponent], recipe: Int8Recipe, inputs: Mapping[str, RecordedInputs]
) -> OnnxArtefacts:  # fmt: skip
    """INT8 graphs under the keys of ``artefacts``; components that the recipe does not name stay as they are.

    Args:
        inputs: recorded inputs that static ranges are calibrated on, by component key.

    Raises:
        SpecError: when the recipe names operator groups that the model has not.
        GraphLintError: when a quantized graph is not valid ONNX.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = {
            item.key: _apply(item, artefacts.graphs[item.key], recipe, inputs.get(item.key, ()), Path(folder))
            for item in components
        }
    return OnnxArtefacts(made)


def _apply(
    component: SourceComponent, graph: ir.Model, recipe: Int8Recipe, inputs: RecordedInputs, folder: Path
) -> ir.Model:
    schemes = role_schemes(recipe, component.role)
    if not schemes:
        return graph
    sketch = draft(component, graph, inputs, folder)
    chosen = resolve(schemes, sketch.groups(), "onnx")
    if set(chosen.values()) == {"fp32"}:
        return graph
    result = sketch.quantized(chosen)
    result.graph.name = graph.graph.name
    return result


def constant_bytes(model: ir.Model) -> int:
    """Bytes of all constants of a graph."""
    constants = (value.const_value for value in model.graph.initializers.values())
    return sum(value.nbytes for value in constants if value is not None)
