"""Lowers components to LiteRT models (``.tflite``) with static shapes.

Components that share weights (the sizes of a network, its layouts for generation and editing) become signatures of one
model, named by their component keys, because the format stores equal constants once. Every other component has a model
of its own, so that a device can load one component at a time.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_edge_quantizer.qtyping import BuiltinOperator
from ai_edge_quantizer.utils import tfl_flatbuffer_utils
from torch.export import ExportedProgram

from microforge.bundle.entry import FileEntry
from microforge.bundle.files import file_entry
from microforge.bundle.targets import Memory
from microforge.errors import GraphLintError
from microforge_export.components.component import SourceComponent
from microforge_export.targets.base import TargetFiles, most_frequent_first
from microforge_export.targets.descriptions import ComponentDescription
from microforge_export.targets.litert.convert import convert

#: Bytes per element of the tensor types that the schema numbers; 17 is int4, two in a byte, and counts as one.
_ITEM_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1, 10: 8, 15: 4, 16: 2, 17: 1}
_FLOAT64 = 10
_NAMES: Mapping[int, str] = {
    number: name for name, number in vars(BuiltinOperator).items() if isinstance(number, int)
}


@dataclass(frozen=True)
class LiteRTArtefacts:
    """The models of a bundle.

    Attributes:
        models: stem of a file -> its bytes.
        homes: component key -> stem of its file.
    """

    models: Mapping[str, bytes]
    homes: Mapping[str, str]

    def lint(self) -> None:
        """Refuse shapes that depend on values, float64, and operators that are not LiteRT's own.

        Raises:
            GraphLintError: names the file and the nodes at fault, at most five of them.
        """
        for stem, content in self.models.items():
            problems = list(_problems(tfl_flatbuffer_utils.read_model(content)))
            if problems:
                raise GraphLintError(f"{stem}: {'; '.join(problems[:5])}")

    def write(
        self,
        folder: Path,
        descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({}),
    ) -> TargetFiles:
        """Write ``litert/STEM.tflite`` into the bundle ``folder``, without descriptions."""
        (folder / "litert").mkdir()
        entries: dict[str, FileEntry] = {}
        memory: dict[str, Memory] = {}
        counts: Counter[str] = Counter()
        for stem, content in self.models.items():
            relative = f"litert/{stem}.tflite"
            (folder / relative).write_bytes(content)
            entries[stem] = file_entry(folder, relative)
            model: Any = tfl_flatbuffer_utils.read_model(content)
            counts.update(_operators(model))
            for signature in model.signatureDefs:
                graph = model.subgraphs[signature.subgraphIndex]
                memory[signature.signatureKey.decode()] = _memory(model, graph)
        return TargetFiles(
            files={key: entries[stem] for key, stem in self.homes.items()},
            operators=most_frequent_first(counts),
            memory={key: memory[key] for key in self.homes},
        )


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]
) -> LiteRTArtefacts:
    """Convert every component to LiteRT in fp32.

    Raises:
        GraphLintError: if litert-torch cannot convert a component; names it.
    """
    grouped: dict[str, list[SourceComponent]] = {}
    for component in components:
        grouped.setdefault(component.family, []).append(component)
    models = {stem: convert(members, programs) for stem, members in grouped.items()}
    return LiteRTArtefacts(models, {item.key: item.family for item in components})


def constant_bytes(content: bytes) -> int:
    """Bytes of the constants of a model; shared ones count once."""
    model: Any = tfl_flatbuffer_utils.read_model(content)
    return sum(_buffer_bytes(buffer) for buffer in model.buffers)


def operators(content: bytes) -> list[str]:
    """The operators of a model, in the order of its graphs."""
    return list(_operators(tfl_flatbuffer_utils.read_model(content)))


def _operators(model: Any) -> Iterator[str]:
    for graph in model.subgraphs:
        for node in graph.operators or ():
            yield _operator_name(model.operatorCodes[node.opcodeIndex])


def _operator_name(code: Any) -> str:
    if code.customCode:
        return str(code.customCode.decode())
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    return _NAMES.get(number, f"operator {number}")


def _problems(model: Any) -> Iterator[str]:
    for code in model.operatorCodes:
        if code.customCode:
            yield f"operator {code.customCode.decode()} is not one of LiteRT's own"
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            name = tensor.name.decode()[:80]
            if tensor.shapeSignature is not None and -1 in list(tensor.shapeSignature):
                yield f"tensor {name} has a dynamic shape {list(tensor.shapeSignature)}"
            if tensor.type == _FLOAT64:
                yield f"tensor {name} has type float64"


def _memory(model: Any, graph: Any) -> Memory:
    """Memory of a signature: LiteRT plans an arena of the live results when it loads, which the file determines."""
    constants = {tensor.buffer for tensor in graph.tensors if _buffer_bytes(model.buffers[tensor.buffer])}
    weights = sum(_buffer_bytes(model.buffers[index]) for index in constants)
    arena = _live_bytes(model, graph)
    return Memory(weights=weights, activations=arena, peak=weights + arena, arena=arena)


def _live_bytes(model: Any, graph: Any) -> int:
    """Peak bytes of live values when ``graph`` runs in its order; inputs and outputs live throughout."""
    sizes = {
        index: 0 if _buffer_bytes(model.buffers[tensor.buffer]) else _tensor_bytes(tensor)
        for index, tensor in enumerate(graph.tensors)
    }
    kept = {int(index) for index in (*graph.inputs, *graph.outputs)}
    last: dict[int, int] = {}
    for position, node in enumerate(graph.operators):
        last.update(dict.fromkeys(_indices(node.inputs), position))
        last.update(dict.fromkeys(_indices(node.outputs), position))
    base = sum(sizes[index] for index in kept)
    alive: set[int] = set()
    peak = base
    for position, node in enumerate(graph.operators):
        alive |= {index for index in _indices(node.outputs) if index not in kept}
        peak = max(peak, base + sum(sizes[index] for index in alive))
        alive = {index for index in alive if last[index] > position}
    return peak


def _indices(values: Iterable[int] | None) -> list[int]:
    return [int(index) for index in (() if values is None else values) if index >= 0]


def _tensor_bytes(tensor: Any) -> int:
    count = 1
    for side in () if tensor.shape is None else tensor.shape:
        count *= int(side)
    return count * _ITEM_BYTES.get(tensor.type, 4)


def _buffer_bytes(buffer: Any) -> int:
    return 0 if buffer.data is None else len(buffer.data)
