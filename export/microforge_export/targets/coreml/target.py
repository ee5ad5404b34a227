"""Core ML as a target of a bundle: packages of all components, linted, written and counted.

For iOS 17 every component is a package. For iOS 18 the sizes of one role, and the two layouts of a denoiser, are
functions of one package, named by their component keys, with one set of weights. A bundle that edits is for iOS 18.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from microforge.bundle.files import file_entry
from microforge.bundle.manifest import Role
from microforge.bundle.targets import FileEntry, Memory
from microforge.errors import GraphLintError
from microforge_export.components.component import SourceComponent
from microforge_export.targets.base import MAX_RANK, TargetFiles, most_frequent_first
from microforge_export.targets.coreml.lower import Deployment, Precision, Weights, lower
from microforge_export.targets.coreml.package import SUFFIX, merge, save
from microforge_runtimes.mil.elementwise import OPERATORS
from microforge_runtimes.mil.interpreter import activation_bytes
from microforge_runtimes.mil.reader import Function, Program, operator_names, read_program

FOLDER = "coreml"
#: Roles whose weights are another role's: they are functions of its package.
_LAYOUTS: Mapping[Role, Role] = {"denoiser_edit": "denoiser"}


@dataclass(frozen=True, kw_only=True)
class CoreMLRecipe:
    """How Core ML packages are made: computation, stored weights, the oldest system that runs them."""

    precision: Precision
    weights: Weights
    deployment: Deployment = "ios17"


#: By the name of a bundle's precision, and the palettes.
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
    roles: Mapping[str, Role]
    deployment: Deployment

    def lint(self) -> None:
        """Refuse operators that the interpreter could not check, and tensors with too many axes.

        Raises:
            GraphLintError: names the component and every problem, at most five of them.
        """
        for key, program in self._programs().items():
            problems = list(dict.fromkeys(_problems(program.function())))
            if problems:
                raise GraphLintError(f"{key}: {'; '.join(problems[:5])}")

    def write(self, folder: Path) -> TargetFiles:
        """Write ``coreml/NAME.mlpackage`` into the bundle ``folder``; a component's file is its package's model."""
        programs = self._programs()
        counts = Counter(name for program in programs.values() for name in operator_names(program))
        (folder / FOLDER).mkdir()
        written = {key: self._entries(folder, files) for key, files in self._write(folder / FOLDER).items()}
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

    def _write(self, folder: Path) -> dict[str, tuple[Path, ...]]:
        """The files of every component, its package's model first."""
        if self.deployment == "ios17":
            return {key: save(model, folder / f"{key}{SUFFIX}") for key, model in self.models.items()}
        written = {}
        groups: dict[Role, list[str]] = defaultdict(list)
        for key, role in self.roles.items():
            groups[_LAYOUTS.get(role, role)].append(key)
        for role, keys in groups.items():
            if len(keys) == 1:
                written[keys[0]] = save(self.models[keys[0]], folder / f"{keys[0]}{SUFFIX}")
                continue
            with tempfile.TemporaryDirectory() as drafts:
                apart = {key: Path(drafts) / f"{key}{SUFFIX}" for key in keys}
                for key, path in apart.items():
                    save(self.models[key], path)
                written |= dict.fromkeys(keys, merge(apart, folder / f"{role}{SUFFIX}"))
        return {key: written[key] for key in self.models}

    def _entries(self, folder: Path, files: Sequence[Path]) -> tuple[FileEntry, ...]:
        return tuple(file_entry(folder, file.relative_to(folder).as_posix()) for file in files)

    def _programs(self) -> dict[str, Program]:
        return {key: read_program(Path(model.package_path)) for key, model in self.models.items()}


def lower_all(
    components: Sequence[SourceComponent], programs: Mapping[str, ExportedProgram], recipe: CoreMLRecipe
) -> CoreMLArtefacts:
    """Every component as an ML program.

    Raises:
        GraphLintError: when coremltools cannot lower a component; names it.
    """
    edits = any(item.role in _LAYOUTS for item in components)
    # Only packages of iOS 18 hold several functions, and two copies of a denoiser are too much for a phone.
    deployment: Deployment = "ios18" if edits else recipe.deployment
    models = {
        item.key: lower(
            item, programs[item.key], precision=recipe.precision, deployment=deployment, weights=recipe.weights
        )
        for item in components
    }  # fmt: skip
    return CoreMLArtefacts(models, {item.key: item.role for item in components}, deployment)


def _problems(function: Function) -> Iterator[str]:
    for operation in function.operations:
        if operation.type != "const" and operation.type not in OPERATORS:
            yield f"operator {operation.type} is not one that the interpreter can check"
        for name, kind in operation.outputs.items():
            if len(kind.shape) > MAX_RANK:
                yield f"tensor {name!r} has {len(kind.shape)} axes, at most {MAX_RANK} are supported"
