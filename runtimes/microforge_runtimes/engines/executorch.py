"""Sessions on ExecuTorch's own Python runtime.

On a phone the runtime is a small C++ library. Its Python binding takes and returns torch tensors, so this
session needs torch beside it: the extra ``executorch`` brings both, and both load only when a session is
opened, never with this package. No network runs in torch itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bundle.manifest import Component, TensorSpec
from microforge.errors import BundleError, missing_extra
from microforge.io.quiet import quiet
from microforge.io.threads import usable_threads
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.session import check_inputs

#: Numbers of ExecuTorch's ScalarType.
_DTYPES = {3: "int32", 4: "int64", 5: "float16", 6: "float32"}
#: Loading redirects the process's stderr, and may change its one thread pool: one thread at a time.
_LOADING = threading.Lock()
_MAGIC = b"ET12"  # after the first four bytes of every program


class ExecutorchSession:
    """One method of an ExecuTorch program; see ``Session``."""

    def __init__(self, path: Path, key: str, component: Component, threads: int | None = None) -> None:
        """Load the method ``key`` and compare its inputs and outputs with ``component``.

        Args:
            threads: size of the engine's thread pool. It has one pool for the whole process, so the session
                that was opened last decides for all of them.

        Raises:
            BundleError: when ExecuTorch refuses the file, it has no such method, or its tensors are not the
                declared ones. (Its tensors have no names: their order is the component's.)
            MissingExtraError: when ExecuTorch or torch is not installed.
        """
        self._engine = engine()
        self._component = component
        self._lock = threading.Lock()  # a method has one block of memory for the values of its graph
        self._method: Any = self._engine.load(path, key, threads)
        meta = self._method.metadata
        difference = _difference(
            component.inputs, [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
        ) or _difference(component.outputs, [meta.output_tensor_meta(i) for i in range(meta.num_outputs())])
        if difference:
            raise BundleError(f"{path}: method {key}: {difference}; build the bundle again")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once.

        Raises:
            ValueError: for inputs that are not the component's, in shape, type or (token ids) value.
        """
        method = self._method
        if method is None:
            raise ValueError(f"this {self._component.role} session is closed")
        check_inputs(self._component, inputs)
        # A copy in C order: torch warns about read-only arrays, and the engine reads memory as it lies.
        copies = [np.array(inputs[spec.name], order="C") for spec in self._component.inputs]
        given = [self._engine.torch.from_numpy(copy) for copy in copies]
        with self._lock:
            try:
                outputs = method.execute(given)
            except RuntimeError as error:
                raise ValueError(f"{self._component.role} cannot run on these inputs: {error}") from None
            return {
                spec.name: tensor.numpy()
                for spec, tensor in zip(self._component.outputs, outputs, strict=True)
            }

    def close(self) -> None:
        self._method = None


@dataclass(frozen=True)
class _Engine:
    """The modules of ExecuTorch's Python runtime, and torch for its tensors."""

    runtime: Any
    binding: Any
    torch: Any

    def load(self, path: Path, key: str, threads: int | None) -> Any:
        """A loaded method; ``BundleError`` when there is none."""
        with path.open("rb") as stream:
            if stream.read(8)[4:] != _MAGIC:  # the binding ends the whole process on such a file
                raise BundleError(f"{path} is not an ExecuTorch program of a version that this runtime reads")
        said = io.StringIO()  # remarks about the processor, and why a load failed
        try:
            with _LOADING, contextlib.redirect_stderr(said):
                if threads is not None:
                    self.binding._unsafe_reset_threadpool(usable_threads(threads))
                self.binding._threadpool_get_thread_count()  # starts the pool, with its remarks
                return self.runtime.Runtime.get().load_program(path).load_method(key)
        except Exception as error:  # RuntimeError of the engine; KeyError when the method is not there
            reason = " ".join(f"{error} {said.getvalue()}".split())[:300]
            raise BundleError(f"{path}: ExecuTorch cannot load method {key}: {reason}") from None


@functools.cache
def engine() -> _Engine:
    """Import by name: a runtime without this engine never needs torch (see the import contracts)."""
    with quiet("torch.utils._pytree"):  # both packages warn about themselves (experimental, deprecated)
        try:
            binding = importlib.import_module("executorch.extension.pybindings.portable_lib")
            runtime = importlib.import_module("executorch.runtime")
            return _Engine(runtime, binding, importlib.import_module("torch"))
        except ImportError as error:
            missing = "torch" if (error.name or "").startswith("torch") else "executorch"
            raise missing_extra(missing, "executorch") from None


def _difference(declared: tuple[TensorSpec, ...], found: list[Any]) -> str | None:
    """How a method's tensors differ from the declared ones, or None when they agree."""
    if len(declared) != len(found):
        return f"it has {len(found)} tensors where the manifest lists {len(declared)}"
    for spec, tensor in zip(declared, found, strict=True):
        dtype = _DTYPES.get(tensor.dtype(), f"type {tensor.dtype()}")
        shape = tuple(tensor.sizes())
        if (shape, dtype) != (spec.shape, spec.dtype):
            return f"tensor {spec.name!r} is {dtype}{list(shape)}, the manifest says {spec.dtype}{list(spec.shape)}"
    return None
