"""Sessions on ONNX Runtime's CPU execution provider."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microforge.bundle.manifest import Component
from microforge.errors import BundleError, missing_extra
from microforge.io.threads import usable_threads
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.session import check_inputs, same_tensors

try:
    import onnxruntime
except ImportError:
    raise missing_extra("onnxruntime", "onnx") from None

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}
_ERRORS_ONLY = 3


class OnnxSession:
    """One ONNX graph with static shapes; see ``Session``."""

    def __init__(self, path: Path, component: Component, threads: int | None = None) -> None:
        """Load the graph and compare its inputs and outputs with ``component``.

        Raises:
            BundleError: when ONNX Runtime refuses the file or its tensors are not the declared ones.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # Every session has a pool of its own; one whose turn is over must not keep spinning on the next one's cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.intra_op_num_threads = usable_threads(threads) or 0  # 0: its own choice
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exception classes share no base of their own
            raise BundleError(
                f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}"
            ) from None
        difference = same_tensors(component.inputs, _tensors(session.get_inputs())) or same_tensors(
            component.outputs, _tensors(session.get_outputs())
        )
        if difference:
            raise BundleError(f"{path}: {difference}; build the bundle again")
        self._component, self._session = component, session
        self._outputs = [spec.name for spec in component.outputs]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once; ``ValueError`` for inputs that are not the component's, ``BundleError`` when the graph fails."""
        session = self._session  # ONNX Runtime evaluates a session for several threads at once
        if session is None:
            raise ValueError(f"this {self._component.role} session is closed")
        check_inputs(self._component, inputs)
        try:
            outputs = session.run(self._outputs, dict(inputs))
        except Exception as error:  # an index outside a tensor, more memory than there is ...
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"ONNX Runtime cannot run {self._component.role}: {reason}") from None
        return dict(zip(self._outputs, outputs, strict=True))

    def close(self) -> None:
        self._session = None


def _tensors(nodes: list[Any]) -> dict[str, tuple[tuple[Any, ...], str]]:
    return {node.name: (tuple(node.shape), _DTYPES.get(node.type, node.type)) for node in nodes}
