"""Opens a target by its name: the packages that it needs, and the function that lowers components for it."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping

from microforge.bundle.targets import TargetName
from microforge.errors import missing_extra
from microforge.io.quiet import quiet
from microforge_export.recipes.build_recipe import TargetRecipe
from microforge_export.targets.base import Lower

#: The packages that a target needs, and the extra that installs each.
PACKAGES: Mapping[TargetName, Mapping[str, str]] = {
    "onnx": {"onnx": "export", "onnx_ir": "export", "onnxscript": "export", "onnxruntime": "onnx"},
    "executorch": {"executorch": "executorch"},
    "coreml": {"coremltools": "coreml"},
    "litert": {
        "litert_torch": "litert-export",
        "ai_edge_quantizer": "litert-export",
        "ai_edge_litert": "litert",
    },
}


#: Distributions whose versions the manifest records, besides torch.
VERSIONS: Mapping[TargetName, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "executorch": ("executorch", "torchao"),
    "coreml": ("coremltools",),
    "litert": ("litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
}


def require_packages(targets: Iterable[TargetName]) -> None:
    """Refuse targets whose packages are not installed.

    Raises:
        MissingExtraError: names the package and the extra that installs it.
    """
    for target in targets:
        for package, extra in PACKAGES[target].items():
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package, extra)


def lowering(target: TargetRecipe) -> Lower:
    """The function that lowers components for ``target``; imports its converter.

    Raises:
        KeyError: if this version has no such target.
    """
    if target.name == "onnx":
        from microforge_export.targets.onnx.lower import lower_all as lower_onnx

        return lower_onnx
    if target.name == "executorch":
        with quiet("torch.utils._pytree"):  # torchao warns about its own use of torch
            from microforge_export.targets.executorch.lower import lower_all as lower_executorch

        return lower_executorch
    if target.name == "coreml":
        from microforge_export.targets.coreml.target import RECIPES
        from microforge_export.targets.coreml.target import lower_all as lower_coreml

        return functools.partial(lower_coreml, recipe=RECIPES[target.precision])
    if target.name == "litert":
        from microforge_export.targets.litert.lower import lower_all as lower_litert

        return lower_litert
    raise KeyError(target.name)
