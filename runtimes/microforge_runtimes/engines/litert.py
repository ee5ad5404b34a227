"""Sessions on LiteRT (``ai-edge-litert``), whose CPU delegate is XNNPACK. No torch, no TensorFlow.

LiteRT's operators take no int64, so token ids are int32 in the file; the session takes them as the component declares
them and converts.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bundle.manifest import Component, TensorSpec
from microforge.errors import BundleError, missing_extra
from microforge.io.quiet import quiet
from microforge.io.threads import usable_threads
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.session import check_inputs, same_tensors

try:
    from ai_edge_litert import interpreter as litert
except ImportError:
    raise missing_extra("ai_edge_litert", "litert") from None

_MAGIC = b"TFL3"  # after the first four bytes of every model


class LiteRTSession:
    """One signature of a LiteRT model; see ``Session``."""

    def __init__(self, path: Path, key: str, component: Component, threads: int | None = None) -> None:
        """Load the signature ``key`` and compare its inputs and outputs with ``component``.

        Args:
            threads: of the CPU kernels; one if None, as LiteRT does.

        Raises:
            BundleError: if LiteRT refuses the file, it has no such signature, or its tensors are not the declared ones.
        """
        with path.open("rb") as stream:
            if stream.read(8)[4:] != _MAGIC:
                raise BundleError(f"{path} is not a LiteRT model")
        try:
            with quiet():
                interpreter = litert.Interpreter(str(path), num_threads=usable_threads(threads) or 1)
                runner = interpreter.get_signature_runner(key)
        except Exception as error:  # RuntimeError and ValueError of the engine
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"{path}: LiteRT cannot load signature {key}: {reason}") from None
        difference = same_tensors(_stored(component.inputs), _tensors(runner.get_input_details())) or (
            same_tensors(_stored(component.outputs), _tensors(runner.get_output_details()))
        )
        if difference:
            raise BundleError(f"{path}: signature {key}: {difference}; build the bundle again")
        self._component, self._runner = component, runner
        self._lock = threading.Lock()  # an interpreter has one block of memory for the values of its graph

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once.

        Raises:
            ValueError: for inputs that are not the component's.
            BundleError: if the graph fails on these inputs, for example by token ids outside the table.
        """
        runner = self._runner
        if runner is None:
            raise ValueError(f"this {self._component.role} session is closed")
        check_inputs(self._component, inputs)
        values = {
            spec.name: np.ascontiguousarray(inputs[spec.name], dtype=spec.dtype)
            for spec in _stored(self._component.inputs)
        }
        try:
            with self._lock:
                results = runner(**values)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise BundleError(f"LiteRT cannot run {self._component.role}: {reason}") from None
        return {
            spec.name: np.asarray(results[spec.name]).astype(spec.dtype, copy=False)
            for spec in self._component.outputs
        }

    def close(self) -> None:
        self._runner = None


def _stored(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """A component's tensors as its file has them: int32 in place of int64."""
    return tuple(
        spec.model_copy(update={"dtype": "int32"}) if spec.dtype == "int64" else spec for spec in specs
    )


def _tensors(details: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        name: (tuple(int(side) for side in item["shape"]), np.dtype(item["dtype"]).name)
        for name, item in details.items()
    }
