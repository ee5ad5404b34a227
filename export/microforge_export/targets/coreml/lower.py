"""Lowers an ExportedProgram to a Core ML program (ML program) with static shapes, for iOS 17 or 18.

Inputs and outputs have the declared names of the component. They are float32 whatever precision is used inside, and
int64 ids are int32, because Core ML has no int64 (the sessions convert).

Weights can be stored compressed; the computation stays in the precision of the model:

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
from microforge_export.targets.coreml.precision import runs_in_fp16
from microforge_export.targets.coreml.tools import ct, quiet

Precision = Literal["fp16", "fp32"]
Deployment = Literal["ios17", "ios18"]
Weights = Literal["none", "int8", "palette6", "palette4"]

#: Weights with fewer elements are not compressed: their scales or palettes would outweigh the saving.
SMALLEST_COMPRESSED = 1024
#: Operators whose weights are learned. Other constants (positions, scan orders) stay exact.
_COMPRESSED = frozenset({"conv", "conv_transpose", "gather", "linear", "matmul"})
#: A constant with fewer different values is structure (a scan order), not a learned weight.
_FEWEST_VALUES = 17
_DTYPES = {"float32": np.float32, "int64": np.int32, "int32": np.int32}


def lower(
    component: SourceComponent, program: ExportedProgram, *, precision: Precision = "fp16",
    deployment: Deployment = "ios17", weights: Weights = "none",
) -> Any:  # fmt: skip
    """The component as a coremltools ``MLModel`` that is not loaded; ``package.save`` writes it.

    Args:
        component: names and shapes of inputs and outputs.
        program: its traced program.
        precision: of the computation; fp16 with the keep-list of ``precision``.
        deployment: oldest system that can run the result.
        weights: how large learned weights are stored.

    Raises:
        GraphLintError: if coremltools cannot lower the component; names it.
    """
    compute = ct.transform.FP16ComputePrecision(runs_in_fp16) if precision == "fp16" else ct.precision.FLOAT32
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
    except Exception as error:  # its errors have no common base class
        reason = " ".join(str(error).split())[:300]
        raise GraphLintError(f"{component.key}: coremltools cannot lower it: {reason}") from error


def _tensor_type(spec: TensorSpec, *, with_shape: bool) -> Any:
    shape = {"shape": spec.shape} if with_shape else {}
    return ct.TensorType(name=spec.name, dtype=_DTYPES[spec.dtype], **shape)


def _target(deployment: Deployment) -> Any:
    return {"ios17": ct.target.iOS17, "ios18": ct.target.iOS18}[deployment]


def _compressed(model: Any, weights: Weights) -> Any:
    """``model`` with its large learned weights stored as ``weights`` says."""
    if weights == "none":
        return model
    tools = ct.optimize.coreml
    operator_config = _operator_config(weights)
    metadata = tools.get_weights_metadata(model, weight_threshold=SMALLEST_COMPRESSED)
    names = {name: operator_config for name, weight in metadata.items() if _is_learned(weight)}
    config = tools.OptimizationConfig(op_name_configs=names)
    if weights == "int8":
        return tools.linear_quantize_weights(model, config)
    return tools.palettize_weights(model, config)


def _operator_config(weights: Weights) -> Any:
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
