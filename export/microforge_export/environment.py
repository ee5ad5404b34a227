"""The versions that were tested together, compared with the installed ones. No torch.

The one list of tested versions is that of the extras in pyproject.toml. Every installed distribution carries it as
metadata, from which it is read here.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from microforge.bundle.targets import TargetName
from microforge.errors import MissingExtraError

DISTRIBUTION = "microforge"
TARGETS: tuple[TargetName, ...] = ("onnx", "executorch", "coreml", "litert")
#: What every build needs: the dependencies of each installation, and those of the PyTorch models.
_BASE = ("", "train")
#: The extras whose packages are listed, and the order in which they are.
_EXTRAS = (*_BASE, "export", "onnx", "executorch", "coreml", "litert", "litert-export", "text")
Status = Literal["tested", "other version", "not installed"]
#: Distribution name -> installed version, or None.
VersionLookup = Callable[[str], str | None]


@dataclass(frozen=True)
class PackageState:
    """One package: the tested versions and the installed one.

    Attributes:
        name: name of the distribution.
        tested: specifier of the tested versions, such as "==1.23.*"; empty if any version works.
        installed: installed version; None if there is none.
        extras: the extras that need it; "" stands for every installation.
    """

    name: str
    tested: str
    installed: str | None
    extras: frozenset[str]

    @property
    def requirement(self) -> str:
        """The argument with which pip installs a tested version."""
        return f"{self.name}{self.tested}"

    @property
    def status(self) -> Status:
        """Whether the installed version is a tested one."""
        if self.installed is None:
            return "not installed"
        tested = Requirement(self.requirement).specifier.contains(self.installed, prereleases=True)
        return "tested" if tested else "other version"


@dataclass(frozen=True)
class Installation:
    """This installation: its versions, and every package that mf-export can need."""

    microforge: str
    python: str
    system: str
    packages: tuple[PackageState, ...]

    def needed_for(self, target: TargetName) -> tuple[PackageState, ...]:
        """The packages that a build for ``target`` needs."""
        extras = {*_BASE, target, f"{target}-export"}
        return tuple(
            item
            for item in self.packages
            if item.extras & extras
            # The extra export collects those of all engines; what only it lists are the converters to ONNX.
            or (
                target == "onnx"
                and not item.extras & {"executorch", "coreml", "litert", "litert-export"}
                and "export" in item.extras
            )
        )

    def usable(self, target: TargetName) -> bool:
        """Whether every package that ``target`` needs is installed in a tested version."""
        return all(item.status == "tested" for item in self.needed_for(target))

    def problems(self, targets: Sequence[TargetName] = ()) -> tuple[PackageState, ...]:
        """The packages whose state has to change.

        Args:
            targets: the targets that must be usable. Without any, the default target must be, and no package may be
                installed in an untested version.
        """
        required = {item for target in targets or ("onnx",) for item in self.needed_for(target)}
        return tuple(
            item
            for item in self.packages
            if (item in required and item.status != "tested")
            or (not targets and item.status == "other version")
        )


def read_environment(
    requirements: Sequence[str] | None = None, installed: VersionLookup | None = None
) -> Installation:
    """Compare the installed packages with the tested versions.

    Args:
        requirements: of the distribution, as ``importlib.metadata.requires`` returns them; None to read them.
        installed: looks up an installed version; None for ``importlib.metadata``.

    Raises:
        MissingExtraError: if MicroForge runs without being installed, so that its metadata is missing.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or [] if requirements is None else requirements
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(
            "microforge is not installed, so the tested versions are unknown: pip install 'microforge[export]'"
        ) from None
    lookup = _installed_version if installed is None else installed
    parsed = [Requirement(line) for line in lines]
    by_extra = {extra: _requirements(parsed, extra) for extra in _EXTRAS}
    names = dict.fromkeys(name for group in by_extra.values() for name in group)
    packages = []
    for name in names:
        extras = frozenset(extra for extra, group in by_extra.items() if name in group)
        tested = next(group[name] for group in by_extra.values() if name in group)
        packages.append(PackageState(name, tested, lookup(name), extras))
    return Installation(version, platform.python_version(), platform.platform(), tuple(packages))


def pip_line(packages: Iterable[PackageState]) -> str:
    """The command that installs tested versions of ``packages``; empty if there are none."""
    arguments = " ".join(f"'{item.requirement}'" for item in packages)
    return f"pip install {arguments}" if arguments else ""


def _requirements(lines: Sequence[Requirement], extra: str) -> Mapping[str, str]:
    """Name -> specifier of what ``extra`` alone adds; extras that refer to other extras are followed."""
    specifiers: dict[str, str] = {}
    for line in lines:
        if not _applies(line, extra):
            continue
        if canonicalize_name(line.name) == DISTRIBUTION:
            for other in sorted(line.extras):
                specifiers |= _requirements(lines, other)
        else:
            specifiers[canonicalize_name(line.name)] = str(line.specifier)
    return specifiers


def _applies(line: Requirement, extra: str) -> bool:
    """Whether ``line`` belongs to ``extra`` on this system; "" stands for every installation."""
    if line.marker is None:
        return extra == ""
    without = line.marker.evaluate({"extra": ""})
    return without if extra == "" else line.marker.evaluate({"extra": extra}) and not without


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
