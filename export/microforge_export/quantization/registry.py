"""Opens the quantization of a target by its name."""

from __future__ import annotations

from microforge.bundle.targets import TargetName
from microforge.errors import SpecError
from microforge.io.quiet import quiet
from microforge_export.quantization.base import QuantizableFactory, QuantizedLower


def quantized_lowering(target: TargetName) -> QuantizedLower:
    """The function that lowers components for ``target`` by an INT8 recipe.

    Raises:
        SpecError: if the target has no INT8 path in this version.
    """
    if target == "onnx":
        from microforge_export.quantization import onnx

        return onnx.lower_all_int8
    if target == "executorch":
        with quiet("torch.utils._pytree"):  # torchao warns about its own use of torch
            from microforge_export.quantization import executorch

        return executorch.lower_all_int8
    if target == "coreml":
        from microforge_export.quantization import coreml

        return coreml.lower_all_int8
    if target == "litert":
        from microforge_export.quantization import litert

        return litert.lower_all_int8
    raise SpecError(f"{target} has no int8 path in this version; build it with --precision fp32")


def quantizable_factory(target: TargetName) -> QuantizableFactory:
    """The factory of components whose candidates ``mf-export tune`` measures.

    Raises:
        SpecError: if the target cannot be tuned in this version.
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
    if target == "litert":
        from microforge_export.quantization import litert

        return litert.LiteRTQuantizable.make
    raise SpecError(
        f"target {target!r} cannot be tuned in this version; available: onnx, executorch, coreml, litert"
    )
