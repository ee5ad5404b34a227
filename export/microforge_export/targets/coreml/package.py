"""Writes Core ML packages: with the same bytes for the same network, and several networks with shared weights.

coremltools writes random identifiers, the date and maps in hash order into a package. Here identifiers are derived
from paths, the date is left out and maps are sorted, so that two builds of one checkpoint are equal.
"""

from __future__ import annotations

import json
import os
import tempfile
import types
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microforge_export.targets.coreml.descriptions import add_descriptions
from microforge_export.targets.coreml.tools import ct, quiet
from microforge_export.targets.descriptions import ComponentDescription

SUFFIX = ".mlpackage"
#: Namespace of the identifiers in the manifest of a package; any fixed value works.
_NAMESPACE = uuid.UUID("6d664d4c-0000-5000-8000-000000000000")
_MODEL, _WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
_DATE = "com.github.apple.coremltools.conversion_date"


def save(
    model: Any, path: Path, descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({})
) -> tuple[Path, ...]:
    """Write ``model`` to the new package ``path``.

    Args:
        model: a coremltools ``MLModel``.
        path: the new package.
        descriptions: texts by the name of the function that they belong to; ``main`` if there is one function.

    Returns:
        The files of the package, the model first.

    Raises:
        FileExistsError: if ``path`` exists.
        ValueError: if its name does not end in ``.mlpackage``.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}")
    if os.path.lexists(path):
        raise FileExistsError(f"{path} already exists")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".coreml") as folder:
        scratch = Path(folder) / path.name
        with quiet():
            ct.utils.save_spec(model.get_spec(), str(scratch), weights_dir=model.weights_dir)
        _normalize(scratch, descriptions)
        scratch.rename(path)
    files = (path / relative for relative in (_MODEL, "Manifest.json", _WEIGHTS))
    return tuple(file for file in files if file.is_file())  # a network without weights has no weight file


def merge(
    packages: Mapping[str, Path], out: Path,
    descriptions: Mapping[str, ComponentDescription] = types.MappingProxyType({}),
) -> tuple[Path, ...]:  # fmt: skip
    """Merge packages into one (iOS 18) with a function per entry of ``packages``; equal weights are stored once.

    Args:
        packages: function name -> package with one function. The first one is the default function.
        out: the new package.
        descriptions: texts by function name.

    Returns:
        The files of the package, the model first.

    Raises:
        FileExistsError: as ``save``.
        ValueError: as ``save``, or if there are no packages.
    """
    if not packages:
        raise ValueError("merge needs at least one package")
    with tempfile.TemporaryDirectory() as folder, quiet():
        descriptor = ct.utils.MultiFunctionDescriptor()
        for name, package in packages.items():
            descriptor.add_function(str(package), src_function_name="main", target_function_name=name)
        descriptor.default_function_name = next(iter(packages))
        merged = Path(folder) / f"merged{SUFFIX}"
        ct.utils.save_multifunction(descriptor, str(merged))
        return save(ct.models.MLModel(str(merged), skip_model_load=True), out, descriptions)


def _normalize(package: Path, descriptions: Mapping[str, ComponentDescription]) -> None:
    """Remove everything that differs between two builds of a network, add ``descriptions``, set readable modes."""
    model_path = package / _MODEL
    spec = ct.utils.load_spec(str(model_path))
    spec.description.metadata.userDefined.pop(_DATE, None)
    add_descriptions(spec, descriptions)
    model_path.write_bytes(spec.SerializeToString(deterministic=True))
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text("utf-8"))
    entries = manifest["itemInfoEntries"]
    names = {key: str(uuid.uuid5(_NAMESPACE, value["path"])) for key, value in entries.items()}
    manifest["itemInfoEntries"] = {names[key]: value for key, value in entries.items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    manifest_path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", "utf-8")
    for path in package.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
