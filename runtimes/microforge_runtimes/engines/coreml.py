"""Sessions on Core ML packages: by Core ML itself on macOS, by the interpreter on any system.

Core ML has no int64, so token ids are int32 in the package; both sessions take them as the component declares
them (int64) and convert. ``CoreMLSession`` needs a Mac; parity is checked by ``MilSession``, which needs none.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Component, TensorSpec
from microforge.errors import BundleError, missing_extra
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.session import check_inputs, same_tensors
from microforge_runtimes.mil.interpreter import Interpreter, Precision
from microforge_runtimes.mil.reader import ValueType, package_folder, read_program

ComputeUnits = Literal["all", "cpu_only", "cpu_and_gpu", "cpu_and_ne"]
_DTYPES = {"fp16": "float16", "fp32": "float32"}


def coreml_specs(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """A component's tensors as its package has them: int32 in place of int64."""
    return tuple(
        spec.model_copy(update={"dtype": "int32"}) if spec.dtype == "int64" else spec for spec in specs
    )


def coreml_inputs(component: Component, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Checked inputs of ``component`` as its package takes them.

    Raises:
        ValueError: when they are not the component's.
    """
    check_inputs(component, inputs)
    return {spec.name: inputs[spec.name].astype(spec.dtype) for spec in coreml_specs(component.inputs)}


class MilSession:
    """A package on the interpreter; see ``Session``."""

    def __init__(
        self, path: Path, component: Component, function: str | None = None, precision: Precision = "fp16"
    ) -> None:
        """Read the package that ``path`` is or lies in, and compare its tensors with ``component``.

        Args:
            function: of a package with several; the only one otherwise.
            precision: "fp16" rounds as the program says, "fp32" rounds nothing.

        Raises:
            BundleError: when the package is damaged, has an unknown operator, or its tensors are not the
                declared ones.
        """
        interpreter = Interpreter(read_program(path), function, precision)
        network = interpreter.function
        difference = same_tensors(coreml_specs(component.inputs), _tensors(network.inputs)) or same_tensors(
            coreml_specs(component.outputs), _tensors(network.output_types())
        )
        if difference:
            raise BundleError(f"{path}: {difference}; build the bundle again")
        self._component = component
        self._interpreter: Interpreter | None = interpreter

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once; ``ValueError`` for inputs that are not the component's."""
        interpreter = self._interpreter
        if interpreter is None:
            raise ValueError(f"this {self._component.role} session is closed")
        results = interpreter.run(coreml_inputs(self._component, inputs))
        return _declared(self._component, results)

    def close(self) -> None:
        self._interpreter = None


class CoreMLSession:
    """A package on Core ML, on macOS only; see ``Session``. Not exercised by tests: they run on Linux."""

    def __init__(
        self,
        path: Path,
        component: Component,
        function: str | None = None,
        compute_units: ComputeUnits = "all",
    ) -> None:
        """Compile and load the package that ``path`` is or lies in.

        Args:
            function: of a package with several (iOS 18, macOS 15).
            compute_units: that Core ML may use.

        Raises:
            BundleError: on another system, or when Core ML refuses the package.
            MissingExtraError: when coremltools is not installed.
        """
        if platform.system() != "Darwin":
            raise BundleError(
                "--target coreml draws on macOS only; elsewhere mf-export verify checks its files with the interpreter"
            )
        try:
            import coremltools
        except ImportError:
            raise missing_extra("coremltools", "coreml") from None
        several = len(read_program(path).functions) > 1
        units = coremltools.ComputeUnit[compute_units.upper()]
        try:
            model = coremltools.models.MLModel(
                str(package_folder(path)), compute_units=units, function_name=function if several else None
            )
        except Exception as error:  # Core ML's errors share no base of their own
            raise BundleError(
                f"{path}: Core ML cannot load it: {' '.join(str(error).split())[:300]}"
            ) from None
        self._component, self._model = component, model
        self._lock = threading.Lock()  # Core ML: one prediction of a model at a time

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once; ``ValueError`` for inputs that are not the component's."""
        model = self._model
        if model is None:
            raise ValueError(f"this {self._component.role} session is closed")
        with self._lock:
            return _declared(self._component, model.predict(coreml_inputs(self._component, inputs)))

    def close(self) -> None:
        self._model = None


def open_interpreted(bundle: Bundle, target: str, key: str, threads: int | None = None) -> MilSession:
    """As ``session.open_session``, on the interpreter: how Core ML files are checked, on a Mac too.

    Raises:
        BundleError: when the bundle lacks the component, or a file is damaged.
        MissingExtraError: when coremltools, whose message classes are used, is not installed.
    """
    return MilSession(bundle.file(target, key), bundle.manifest.components[key], key)


def _declared(component: Component, results: Mapping[str, Array]) -> dict[str, Array]:
    return {spec.name: np.asarray(results[spec.name]).astype(spec.dtype) for spec in component.outputs}


def _tensors(types: Mapping[str, ValueType]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (kind.shape, _DTYPES.get(kind.dtype, kind.dtype)) for name, kind in types.items()}
