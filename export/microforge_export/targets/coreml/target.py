"""Core ML as a target of a bundle: lints and writes the packages of all components.

For iOS 17 every component is a package. For iOS 18 the sizes of one role, and the two layouts of a network, are
functions of one package, named by their component keys, with shared weights. A bundle that edits needs iOS 18.
"""

from __future__ import annotations

import tempfile
import types
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from microforge.bundle.entry import FileEntry
from microforge.bundle.files import file_entry
from microforge.bundle.targets import Memory
from microforge.errors import GraphLintError
from microforge_export.components.component import SourceComponent
from microforge_export.targets.base import MAX_RANK, TargetFiles, most_frequent_first
from microforge_export.targets.coreml.descriptions import MAIN
from microforge_export.targets.coreml.lower import Deployment, Precision, Weights, lower
from microforge_export.targets.coreml.package import SUFFIX, merge, save
from microforge_export.targets.descriptions import ComponentDescription
from microforge_runtimes.mil.elementwise import OPERATORS
from microforge_runtimes.mil.interpreter import activation_bytes
from microforge_runtimes.mil.reader import Function, Program, operator_names, read_program

FOLDER = "coreml"


@dataclass(frozen=True, kw_only=True)
class CoreMLRecipe:
    """Precision of the computation, storage of the weights, and the oldest system that runs the packages."""

    precision: Precision
    weights: Weights
    deployment: Deployment = "ios17"


#: Recipes by the precision of a bundle, and by the size of palettes.
RECIPES: Mapping[str, CoreMLRecipe] = {
    "fp32": CoreMLRecipe(precision="fp32", weights="none"),
    "fp16": CoreMLRecipe(precision="fp16", weights="none"),
    "int8": CoreMLRecipe(precision="fp16", weights="int8"),
    "palette6": CoreMLRecipe(precision="fp16", weights="palette6"),
    "palette4": CoreMLRecipe(precision="fp16", weights="palette4"),
}


@dataclass(frozen=True)
class CoreMLArtefacts:
    """A coremltools model per component key, and the role of each."""

    models: Mapping[str, Any]
    families: Mapping[str, str]
    deployment: Deployment

    def lint(self) -> None:
        """Refuse operators that the interpreter cannot check, and tensors with too many axes.

        Raises:
            GraphLintError: names the component and every problem, at most five of them.
        """
        for key, program in self._programs().items():
            problems = list(dict.fromkeys(_problems(program.function())))
            if problems:
                raise GraphLintError(f"{key}: {'; '.join(problems[:5])}")

    def write(
        self,
        folder: Path,
        descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({}),
    ) -> TargetFiles:
        """Write ``coreml/NAME.mlpackage`` into the bundle ``folder``; the file of a component is its package's model.

        See ``base.Artefacts``.
        """
        programs = self._programs()
        counts = Counter(name for program in programs.values() for name in operator_names(program))
        (folder / FOLDER).mkdir()
        written = {
            key: self._entries(folder, files)
            for key, files in self._write(folder / FOLDER, descriptions).items()
        }
        memory = {}
        for key, program in programs.items():
            weights = sum(entry.bytes for entry in written[key] if entry.path.endswith(".bin"))
            activations = activation_bytes(program.function())
            memory[key] = Memory(weights=weights, activations=activations, peak=weights + activations)
        return TargetFiles(
            files={key: entries[0] for key, entries in written.items()},
            parts={key: entries[1:] for key, entries in written.items()},
            operators=most_frequent_first(counts),
            memory=memory,
        )

    def _write(
        self, folder: Path, descriptions: Mapping[str, ComponentDescription]
    ) -> dict[str, tuple[Path, ...]]:
        """Write all packages; the files of every component, the model of its package first."""

        def save_alone(key: str) -> tuple[Path, ...]:
            texts = {MAIN: descriptions[key]} if key in descriptions else {}
            return save(self.models[key], folder / f"{key}{SUFFIX}", texts)

        if self.deployment == "ios17":
            return {key: save_alone(key) for key in self.models}
        written = {}
        groups: dict[str, list[str]] = defaultdict(list)
        for key, family in self.families.items():
            groups[family].append(key)
        for family, keys in groups.items():
            if len(keys) == 1:
                written[keys[0]] = save_alone(keys[0])
                continue
            with tempfile.TemporaryDirectory() as scratch:
                packages = {key: Path(scratch) / f"{key}{SUFFIX}" for key in keys}
                for key, path in packages.items():
                    save(self.models[key], path)
                texts = {key: descriptions[key] for key in keys if key in descriptions}
                written |= dict.fromkeys(keys, merge(packages, folder / f"{family}{SUFFIX}", texts))
        return {key: written[key] for key in self.models}

    def _entries(self, folder: Path, files: Sequence[Path]) -> tuple[FileEntry, ...]:
        return tuple(file_entry(folder, file.relative_to(folder).as_posix()) for file in files)

    def _programs(self) -> dict[str, Program]:
        return {key: read_program(Path(model.package_path)) for key, model in self.models.items()}


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], recipe: CoreMLRecipe
) -> CoreMLArtefacts:
    """Lower every component to an ML program.

    Raises:
        GraphLintError: if coremltools cannot lower a component; names it.
    """
    shared = any(item.weights_of is not None for item in components)
    # Only packages for iOS 18 can hold several functions, and two copies of the weights are too large for a phone.
    deployment: Deployment = "ios18" if shared else recipe.deployment
    models = {
        item.key: lower(
            item, programs[item.key], precision=recipe.precision, deployment=deployment, weights=recipe.weights
        )
        for item in components
    }  # fmt: skip
    return CoreMLArtefacts(models, {item.key: item.family for item in components}, deployment)


def _problems(function: Function) -> Iterator[str]:
    for operation in function.operations:
        if operation.type != "const" and operation.type not in OPERATORS:
            yield f"operator {operation.type} is not one that the interpreter can check"
        for name, kind in operation.outputs.items():
            if len(kind.shape) > MAX_RANK:
                yield f"tensor {name!r} has {len(kind.shape)} axes, at most {MAX_RANK} are supported"
