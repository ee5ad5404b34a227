"""The engines that a bundle can be built for, each behind the same two steps: lower, then lint and write.

``lowering(target)`` gives a target's ``lower``; what that returns is checked by ``lint`` and written by
``write``. A target's module loads only when the target is asked for, after ``require_packages`` said that
it can.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch.export import ExportedProgram

from microforge.bundle_targets import Coverage, FileEntry, Memory, TargetName
from microforge.errors import missing_extra
from microforge.quiet import quiet
from microforge_export.program import Component
from microforge_export.recipe import TargetRecipe

#: The packages that a target needs to be lowered and checked, and the extra of the distribution with each.
PACKAGES: Mapping[TargetName, Mapping[str, str]] = {
    "onnx": {"onnx": "export", "onnx_ir": "export", "onnxscript": "export", "onnxruntime": "onnx"},
    "executorch": {"executorch": "executorch"},
    "coreml": {"coremltools": "coreml"},
}
#: Distributions whose versions the manifest records, beside torch.
VERSIONS: Mapping[TargetName, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "coreml": ("coremltools",),
}


@dataclass(frozen=True, kw_only=True)
class Usability:
    """One accelerator's share of a graph: ``supported`` of ``nodes``, in ``partitions`` pieces (0: not said)."""

    nodes: int
    supported: int
    partitions: int
    verdict: str  # "yes", "maybe" or "no": whether the tool expects a gain; "unknown" where it does not say
    unsupported: tuple[str, ...]  # operators that the accelerator's list lacks
    method: str = "static analysis"


@dataclass(frozen=True)
class TargetFiles:
    """What a target has in a bundle, and what is known of it before it runs; fields as in ``bundle.Target``."""

    files: Mapping[str, FileEntry]
    operators: Mapping[str, int]
    shared_files: tuple[FileEntry, ...] = ()
    shared_sha256: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[FileEntry, ...]] = field(default_factory=dict)
    coverage: Mapping[str, Coverage] = field(default_factory=dict)
    memory: Mapping[str, Memory] = field(default_factory=dict)
    usability: Mapping[str, Mapping[str, Usability]] = field(
        default_factory=dict
    )  # key -> accelerator; not in the manifest


class Artefacts(Protocol):
    """All components lowered for one target, in memory."""

    def lint(self) -> None:
        """Refuse what the target's engines run badly.

        Raises:
            GraphLintError: names the component and what is at fault.
        """
        ...

    def write(self, folder: Path) -> TargetFiles:
        """Write the target's files into the bundle ``folder``; may be called once."""
        ...


class Lower(Protocol):
    """Components and their traced programs, by component key, to artefacts of one target."""

    def __call__(
        self, components: Sequence[Component], programs: Mapping[str, ExportedProgram]
    ) -> Artefacts: ...


def require_packages(targets: Iterable[TargetName]) -> None:
    """Refuse a target that could not be built or checked here.

    Raises:
        MissingExtraError: names the package and the extra that brings it.
    """
    for target in targets:
        for package, extra in PACKAGES[target].items():
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package, extra)


def lowering(target: TargetRecipe) -> Lower:
    """How ``target`` is lowered; its converter loads here.

    Raises:
        KeyError: for a target that this version has no module for.
    """
    if target.name == "onnx":
        from microforge_export import to_onnx

        return to_onnx.lower_all
    if target.name == "executorch":
        with quiet("torch.utils._pytree"):  # torchao, which comes with it, warns about its own use of torch
            from microforge_export import to_executorch

        return to_executorch.lower_all
    if target.name == "coreml":
        from microforge_export import coreml_target

        return functools.partial(coreml_target.lower_all, recipe=coreml_target.RECIPES[target.precision])
    raise KeyError(target.name)
