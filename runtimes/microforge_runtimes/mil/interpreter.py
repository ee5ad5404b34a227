"""Core ML packages on any computer: every operator of the saved program, in numpy.

Core ML itself runs on Apple's systems only. This runs the same file with its own weights, so it shows that
conversion, weight compression and storage kept the network's meaning, and how much half precision costs. It
is a parity check, not an engine: slow, and it cannot know in which order a Neural Engine adds up.

    precision "fp16": every value that the program declares as fp16 is rounded to fp16 when an operator gives
                      it; sums inside an operator (conv, matmul, norm, softmax, reduction) run in fp32
    precision "fp32": nothing is rounded beyond the stored constants
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from microforge.errors import BundleError
from microforge_runtimes.arrays import Array
from microforge_runtimes.mil.elementwise import OPERATORS
from microforge_runtimes.mil.reader import Argument, Function, Operation, Program, ValueType
from microforge_runtimes.mil.weight_blob import ELEMENTS

Precision = Literal["fp16", "fp32"]
Value = Array | str


@dataclass(frozen=True)
class _Step:
    """An operation that computes, and the values that nothing needs after it."""

    operation: Operation
    dead: tuple[str, ...]


class Interpreter:
    """One function of a program, with its constants decompressed; runs any number of times."""

    def __init__(self, program: Program, function: str | None = None, precision: Precision = "fp16") -> None:
        """Check the operators and evaluate the constants.

        Raises:
            BundleError: names every operator that the interpreter lacks.
        """
        self.function, self._path, self._half = program.function(function), program.path, precision == "fp16"
        #: Largest magnitude so far of any computed value that was rounded to fp16; 65504 is the limit.
        self.peak = 0.0
        _check_operators(self.function, program.path)
        self._constants: dict[str, Value] = {}
        computing = []
        for operation in self.function.operations:
            if operation.type == "const":
                self._constants |= self._constant(operation)
            elif operation.type.startswith("constexpr_"):
                self._constants |= self._apply(operation, self._constants)
            else:
                computing.append(operation)
        _check_outputs(self.function, program.path)
        self._steps = tuple(_with_lifetimes(computing, {*self._constants, *self.function.outputs}))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once: arrays by name in, arrays by name out (float32 for fp16 and fp32)."""
        values: dict[str, Value] = dict(self._constants)
        for name, kind in self.function.inputs.items():
            values[name] = self._typed(inputs[name], kind, f"input {name}")
        for step in self._steps:
            results = self._apply(step.operation, values)
            self._watch(step.operation, results)
            values |= results
            for name in step.dead:
                del values[name]
        return {name: np.asarray(values[name]) for name in self.function.outputs}

    def _watch(self, operation: Operation, results: Mapping[str, Value]) -> None:
        for name, kind in operation.outputs.items():
            if self._half and kind.dtype == "fp16":
                self.peak = max(self.peak, float(np.abs(np.asarray(results[name])).max(initial=0.0)))

    def _constant(self, operation: Operation) -> dict[str, Value]:
        if len(operation.outputs) != 1 or not operation.inputs.get("val"):
            raise BundleError(f"{self._path}: the constant {operation.name[:80]!r} has no value")
        return {name: self._value(operation.inputs["val"][0], {}) for name in operation.outputs}

    def _apply(self, operation: Operation, values: Mapping[str, Value]) -> dict[str, Value]:
        """Results of ``operation`` by name.

        Raises:
            BundleError: when it cannot run on its inputs, or gives what the program does not declare; names it.
        """
        where = f"operator {operation.type[:80]} {operation.name[:80]!r}"
        try:
            arguments: dict[str, Value | tuple[Value, ...]] = {}
            for key, given in operation.inputs.items():
                found = tuple(self._value(item, values) for item in given)
                arguments[key] = found if key == "values" else found[0]
            # fp16 overflow to infinity, and exp of large numbers, are what the device does too
            with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
                result = OPERATORS[operation.type](**arguments)
                results = result if isinstance(result, tuple) else (result,)
                return {
                    name: self._typed(value, kind, where)
                    for value, (name, kind) in zip(results, operation.outputs.items(), strict=True)
                }
        except BundleError:
            raise
        except Exception as error:  # whatever numpy says to values that the operator is not defined for
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise BundleError(f"{self._path}: {where} cannot run: {reason}") from None

    def _value(self, argument: Argument, values: Mapping[str, Value]) -> Value:
        if isinstance(argument, str):
            if argument not in values:
                raise BundleError(f"{self._path}: nothing gives the value {argument[:80]!r}")
            return values[argument]
        if isinstance(argument.value, str):
            return argument.value
        return self._typed(argument.value, argument.type, "a constant")

    def _typed(self, value: Array, kind: ValueType, where: str) -> Array:
        """``value`` as the program declares it; floats are held as float32, rounded first where they are fp16.

        Raises:
            BundleError: when its shape is not the declared one: then the operator is not the one of Core ML.
        """
        array = np.asarray(value)
        if array.shape != kind.shape:
            raise BundleError(
                f"{self._path}: {where} gives {list(array.shape)}, the program says {list(kind.shape)}"
            )
        if kind.dtype not in ("fp16", "fp32"):
            return array.astype(ELEMENTS[kind.dtype].dtype, copy=False)
        if kind.dtype == "fp16" and self._half:
            array = array.astype(np.float16, copy=False)
        return array.astype(np.float32, copy=False)


def _check_operators(function: Function, path: Path) -> None:
    """Refuse operators, and parameters of operators, that the interpreter does not know."""
    used = {operation.type: operation for operation in function.operations if operation.type != "const"}
    unknown = sorted(set(used) - set(OPERATORS))
    if unknown:
        raise BundleError(
            f"{path}: the interpreter has no operator {', '.join(map(_plain, unknown))}; it has: {', '.join(sorted(OPERATORS))}"
        )
    for operation in function.operations:
        if operation.type != "const":
            strange = set(operation.inputs) - set(inspect.signature(OPERATORS[operation.type]).parameters)
            if strange:
                raise BundleError(
                    f"{path}: operator {operation.type} {operation.name[:80]!r} has a parameter "
                    f"{min(strange)[:80]!r}, which the interpreter does not know"
                )


def _check_outputs(function: Function, path: Path) -> None:
    """Refuse a function that returns what nothing computes."""
    results = {name for operation in function.operations for name in operation.outputs} | set(function.inputs)
    missing = [name for name in function.outputs if name not in results]
    if missing:
        raise BundleError(f"{path}: nothing gives the output {missing[0][:80]!r}")


def _plain(name: str) -> str:
    """A name of the program as a message shows it."""
    return name if name.isidentifier() and len(name) < 80 else repr(name[:80])


def _names(operation: Operation) -> Iterator[str]:
    for arguments in operation.inputs.values():
        yield from (item for item in arguments if isinstance(item, str))


def _with_lifetimes(operations: Sequence[Operation], kept: Iterable[str]) -> Iterator[_Step]:
    """Every operation with the values whose last use it is (its own results too, when nobody uses them)."""
    last: dict[str, int] = {}
    for index, operation in enumerate(operations):
        last |= dict.fromkeys((*operation.outputs, *_names(operation)), index)
    for name in kept:
        last.pop(name, None)
    for index, operation in enumerate(operations):
        named = dict.fromkeys((*operation.outputs, *_names(operation)))
        yield _Step(operation, tuple(name for name in named if last.get(name) == index))


def activation_bytes(function: Function) -> int:
    """Most bytes of values that live at once, each as the program stores it; constants are not among them.

    An engine that computes in place or fuses operators needs less, one that copies needs more.
    """
    sizes = {name: _bytes(kind) for name, kind in function.inputs.items()}
    computing = [
        item for item in function.operations if item.type != "const" and "constexpr_" not in item.type
    ]
    live = most = sum(sizes.values())
    for step in _with_lifetimes(computing, function.outputs):
        results = {name: _bytes(kind) for name, kind in step.operation.outputs.items()}
        sizes |= results
        live += sum(results.values())
        most = max(most, live)
        live -= sum(sizes.get(name, 0) for name in step.dead)
    return most


def _bytes(kind: ValueType) -> int:
    return math.prod(kind.shape) * ELEMENTS[kind.dtype].bits // 8
