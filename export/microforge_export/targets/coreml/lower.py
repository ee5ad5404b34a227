"""ExportedProgram -> Core ML ML program with static shapes, for iOS 17 or 18.

Inputs and outputs carry the component's declared names; floats are float32 at the border whatever the
precision inside, and int64 ids are int32, since Core ML has no int64 (the sessions convert).

Weights can be compressed by a named recipe; computation stays in the model's precision:

    int8      linear, symmetric, one scale per output channel
    palette6  64 k-means entries per weight tensor
    palette4  16 k-means entries per weight tensor
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch.export import ExportedProgram

from microforge.bundle.manifest import TensorSpec
from microforge.errors import GraphLintError
from microforge_export.components.component import SourceComponent
from microforge_export.targets.coreml.precision import in_half
from microforge_export.targets.coreml.tools import ct, quiet

Precision = Literal["fp16", "fp32"]
Deployment = Literal["ios17", "ios18"]
Weights = Literal["none", "int8", "palette6", "palette4"]

#: Weights of fewer elements than this stay as they are: their scales or palettes would outweigh the saving.
SMALLEST_COMPRESSED = 1024
#: Operators whose weights are learned; other constants (positions, scan orders) stay exact.
_COMPRESSED = frozenset({"conv", "conv_transpose", "gather", "linear", "matmul"})
#: A constant with fewer different values is structure (a scan order), not a learned weight.
_FEWEST_VALUES = 17
_DTYPES = {"float32": np.float32, "int64": np.int32, "int32": np.int32}


def lower(
    component: SourceComponent, program: ExportedProgram, *, precision: Precision = "fp16",
    deployment: Deployment = "ios17", weights: Weights = "none",
) -> Any:  # fmt: skip
    """The component as a coremltools ``MLModel`` that is not loaded; ``coreml_package.save`` writes it.

    Raises:
        GraphLintError: when coremltools cannot lower it; names the component.
    """
    compute = ct.transform.FP16ComputePrecision(in_half) if precision == "fp16" else ct.precision.FLOAT32
    try:
        with quiet():
            model = ct.convert(
                program.run_decompositions({}),
                convert_to="mlprogram",
                inputs=[_tensor_type(spec, with_shape=True) for spec in component.inputs],
                outputs=[_tensor_type(spec, with_shape=False) for spec in component.outputs],
                minimum_deployment_target=_target(deployment),
                compute_precision=compute,
                skip_model_load=True,
            )
            return _compressed(model, weights)
    except Exception as error:  # its errors share no base of their own
        reason = " ".join(str(error).split())[:300]
        raise GraphLintError(f"{component.key}: coremltools cannot lower it: {reason}") from error


def _tensor_type(spec: TensorSpec, *, with_shape: bool) -> Any:
    shape = {"shape": spec.shape} if with_shape else {}
    return ct.TensorType(name=spec.name, dtype=_DTYPES[spec.dtype], **shape)


def _target(deployment: Deployment) -> Any:
    return {"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[deployment]


def _compressed(model: Any, weights: Weights) -> Any:
    """``model`` with its large learned weights stored by the recipe ``weights``."""
    if weights == "none":
        return model
    tools = ct.optimize.coreml
    recipe = _recipe(weights)
    metadata = tools.get_weights_metadata(model, weight_threshold=SMALLEST_COMPRESSED)
    names = {name: recipe for name, weight in metadata.items() if _is_learned(weight)}
    config = tools.OptimizationConfig(op_name_configs=names)
    if weights == "int8":
        return tools.linear_quantize_weights(model, config)
    return tools.palettize_weights(model, config)


def _recipe(weights: Weights) -> Any:
    tools = ct.optimize.coreml
    if weights == "int8":
        return tools.OpLinearQuantizerConfig(
            mode="linear_symmetric",
            dtype=np.int8,
            granularity="per_channel",
            weight_threshold=SMALLEST_COMPRESSED,
        )
    bits = {"palette6": 6, "palette4": 4}[weights]
    return tools.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=SMALLEST_COMPRESSED)


def _is_learned(weight: Any) -> bool:
    return weight.unique_values >= _FEWEST_VALUES and all(
        child.op_type in _COMPRESSED for child in weight.child_ops
    )
