"""Opens a target's quantization by its name."""

from __future__ import annotations

from microforge.bundle.targets import TargetName
from microforge.errors import SpecError
from microforge.io.quiet import quiet
from microforge_export.quantization.base import QuantizableFactory, QuantizedLower


def quantized_lowering(target: TargetName) -> QuantizedLower:
    """How ``target`` is lowered by a recipe.

    Raises:
        SpecError: for a target that has no INT8 path in this version.
    """
    if target == "onnx":
        from microforge_export.quantization import onnx

        return onnx.lower_all
    if target == "executorch":
        with quiet("torch.utils._pytree"):  # torchao warns about its own use of torch
            from microforge_export.quantization import executorch

        return executorch.lower_all_int8
    if target == "coreml":
        from microforge_export.quantization import coreml

        return coreml.lower_all_int8
    raise SpecError(f"{target} has no int8 path in this version; build it with --precision fp32")


def quantizable_factory(target: TargetName) -> QuantizableFactory:
    """How drafts of ``target`` are made.

    Raises:
        SpecError: for a target that cannot be tuned in this version.
    """
    if target == "onnx":
        from microforge_export.quantization import onnx

        return onnx.OnnxQuantizable.make
    if target == "executorch":
        with quiet("torch.utils._pytree"):
            from microforge_export.quantization import executorch

        return executorch.ExecutorchQuantizable.make
    if target == "coreml":
        from microforge_export.quantization import coreml

        return coreml.CoreMLQuantizable.make
    raise SpecError(f"target {target!r} cannot be tuned in this version; available: onnx, executorch, coreml")
