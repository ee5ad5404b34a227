"""Lowers ExportedPrograms to ExecuTorch programs (``.pte``) on the XNNPACK delegate, with static shapes.

Components that share weights (the sizes of a network, its layouts for generation and editing) become methods of one
program, named by their component keys, because a program stores equal constants once. Every other component has a
program of its own, so that a device can load one component at a time.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.partitioner import Partition
from torch.fx.passes.utils.fuser_utils import validate_partition

from microforge.bundle.entry import FileEntry
from microforge.bundle.files import file_entry
from microforge.bundle.targets import Coverage, Memory
from microforge.errors import GraphLintError, MicroForgeError
from microforge.io.quiet import quiet
from microforge_export.components.component import SourceComponent
from microforge_export.targets.base import MAX_RANK, TargetFiles, most_frequent_first
from microforge_export.targets.descriptions import ComponentDescription
from microforge_export.targets.executorch.decompositions import simplify
from microforge_export.targets.executorch.delegation import (
    coverage,
    delegate_graphs,
    live_bytes,
    operator_counts,
    rejections,
)

_TYPES = frozenset({torch.float32, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool})  # fmt: skip


@dataclass(frozen=True)
class ExecutorchArtefacts:
    """The lowered programs of a bundle.

    Attributes:
        programs: stem of a file -> edge manager with its methods.
        homes: component key -> stem of its file.
        weights: component key -> bytes of its constants.
        coverage: component key -> operators inside and outside delegates.
        operators: number of each operator.
    """

    programs: Mapping[str, Any]
    homes: Mapping[str, str]
    weights: Mapping[str, int]
    coverage: Mapping[str, Coverage]
    operators: Mapping[str, int]

    def lint(self) -> None:
        """Refuse value-dependent shapes, float64 and more than five axes outside delegates.

        Raises:
            GraphLintError: names the component and the nodes at fault, at most five of them.
        """
        for key, stem in self.homes.items():
            problems = list(_problems(self.programs[stem].exported_program(key).graph))
            if problems:
                raise GraphLintError(f"{key}: {'; '.join(problems[:5])}")

    def write(
        self,
        folder: Path,
        descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({}),
    ) -> TargetFiles:
        """Write ``executorch/STEM.pte`` into the bundle ``folder``; the format has no place for descriptions."""
        (folder / "executorch").mkdir()
        entries: dict[str, FileEntry] = {}
        memory: dict[str, Memory] = {}
        for stem, manager in self.programs.items():
            with quiet():
                built = manager.to_executorch()
            relative = f"executorch/{stem}.pte"
            with (folder / relative).open("wb") as stream:
                built.write_to_file(stream)
            entry = file_entry(folder, relative)
            for plan in built.executorch_program.execution_plan:
                entries[plan.name] = entry
                graphs = delegate_graphs(manager.exported_program(plan.name))
                memory[plan.name] = _memory(self.weights[plan.name], plan.non_const_buffer_sizes, graphs)
        return TargetFiles(
            files={key: entries[key] for key in self.homes},
            operators=self.operators,
            coverage=self.coverage,
            memory={key: memory[key] for key in self.homes},
        )


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram]
) -> ExecutorchArtefacts:
    """Lower every component to XNNPACK, in fp32 except for what ``executorch_quantizer`` has quantized.

    Raises:
        GraphLintError: if ExecuTorch cannot lower a component; names it.
    """
    grouped: dict[str, dict[str, ExportedProgram]] = {}
    for component in components:
        with refusing(component.key), quiet():
            simple = simplify(programs[component.key])
        grouped.setdefault(component.family, {})[component.key] = simple
    weights = {key: _constant_bytes(item) for methods in grouped.values() for key, item in methods.items()}
    managers, report, counts = {}, {}, Counter[str]()
    for stem, methods in grouped.items():
        with rejections() as reasons, refusing(", ".join(methods)), quiet():
            managers[stem] = to_edge_transform_and_lower(methods, partitioner=[_Partitioner()])
        for key in methods:
            lowered = managers[stem].exported_program(key)
            report[key] = coverage(lowered, reasons)
            counts += operator_counts(lowered)
    keys = [component.key for component in components]
    return ExecutorchArtefacts(
        programs=managers,
        homes={component.key: component.family for component in components},
        weights=weights,
        coverage={key: report[key] for key in keys},
        operators=most_frequent_first(counts),
    )


class _Partitioner(XnnpackPartitioner):  # type: ignore[misc]  # the library has no types
    """XNNPACK's partitioner with a shortcut: all matches become one partition if that causes no cycle.

    The library arrives at the same result by merging matches pair by pair, in time quadratic in the graph.
    """

    def generate_partitions(self, ep: ExportedProgram) -> list[Partition]:
        nodes = [node for group in self.get_matched_nodes_from_configs(ep) for node in group]
        if nodes and validate_partition(nodes):
            return [Partition(id=0, nodes=dict.fromkeys(nodes))]
        pieces: list[Partition] = super().generate_partitions(ep)
        return pieces


def _memory(weights: int, buffers: Sequence[int], graphs: Sequence[fx.Graph]) -> Memory:
    """Memory of a method.

    Args:
        weights: bytes of its constants.
        buffers: its memory plan; the first entry stands for constants and is always 0.
        graphs: graphs of its delegates, which run one after another in one workspace, so that the largest counts.
    """
    arena = sum(buffers[1:])
    activations = arena + max((live_bytes(graph) for graph in graphs), default=0)
    return Memory(weights=weights, activations=activations, peak=weights + activations, arena=arena)


def _constant_bytes(program: ExportedProgram) -> int:
    """Bytes of the constants that the graph of a program uses; shared storage counts once."""
    values = {**program.state_dict, **program.constants}
    used = [values[spec.target] for spec in program.graph_signature.input_specs if spec.target in values]
    unique = {value.data_ptr(): value for value in used if isinstance(value, torch.Tensor)}
    return sum(value.numel() * value.element_size() for value in unique.values())


def _problems(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op != "call_function" or not isinstance(value, torch.Tensor):
            continue
        if value.dtype not in _TYPES:
            yield f"node {node.name} has type {value.dtype}"
        if not all(isinstance(side, int) for side in value.shape):
            yield f"node {node.name} has a dynamic shape {list(value.shape)}"
        elif value.dim() > MAX_RANK:
            yield f"node {node.name} has {value.dim()} axes, at most {MAX_RANK} are supported"


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Convert exceptions of torch.export and ExecuTorch to one line about the component; MicroForge errors pass."""
    try:
        yield
    except MicroForgeError:
        raise
    except Exception as error:  # their exceptions have no common base class
        reason = " ".join(str(error).split())[:300]
        raise GraphLintError(f"{what}: ExecuTorch cannot lower it: {reason}") from error
