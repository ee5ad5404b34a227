"""Core ML packages (``.mlpackage``, ML programs) as plain values: functions, operations, constants.

The file ``model.mlmodel`` is a protobuf message (Model.proto and MIL.proto of Core ML), the weights are in
a blob file beside it. The message classes are the generated ones of coremltools, loaded straight from their
files: importing coremltools itself would also import torch and take seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microforge.bundle.entry import check_relative_path
from microforge.bundle.files import inside
from microforge.errors import BundleError, missing_extra
from microforge_runtimes.arrays import Array
from microforge_runtimes.mil.weight_blob import ELEMENTS, BlobFile, elements

SUFFIX, MODEL = ".mlpackage", "com.apple.CoreML/model.mlmodel"
_MODEL_PATH = "@model_path/"
#: MIL_pb2.DataType by number -> the name that MIL's own text uses.
_NAMES = {
    1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
    25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1",
    38: "uint6", 39: "uint3",
}  # fmt: skip


@dataclass(frozen=True)
class ValueType:
    """A tensor's element type (a key of ``ELEMENTS``, or ``string``) and static shape; () is a scalar."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Constant:
    """A value that stands in the program or its weight file: an array of its own type, or a string."""

    type: ValueType
    value: Array | str


#: What an operation takes: the name of an earlier value, or the value itself.
Argument = str | Constant


@dataclass(frozen=True)
class Operation:
    """One operation. ``inputs`` has a tuple per parameter, since some take lists; attributes are inputs too."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: Mapping[str, ValueType]


@dataclass(frozen=True)
class Function:
    """A network: what it takes, what it does in order, and the names of what it gives."""

    inputs: Mapping[str, ValueType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]

    def output_types(self) -> dict[str, ValueType]:
        """The types of ``outputs``."""
        types = dict(self.inputs)
        for operation in self.operations:
            types |= operation.outputs
        return {name: types[name] for name in self.outputs}


@dataclass(frozen=True)
class Program:
    """All functions of a package. One with a single network calls it ``main``."""

    path: Path
    functions: Mapping[str, Function]

    def function(self, name: str | None = None) -> Function:
        """The function ``name``; the only one of a package that has one function, whatever its name.

        Raises:
            BundleError: when there is none; lists those there are.
        """
        if len(self.functions) == 1:
            return next(iter(self.functions.values()))
        if name is None or name not in self.functions:
            raise BundleError(f"{self.path} has no function {name!r}; it has: {', '.join(self.functions)}")
        return self.functions[name]


def package_folder(path: Path) -> Path:
    """The ``.mlpackage`` that ``path`` is, or lies in: a manifest names a file, Core ML takes the folder.

    Raises:
        BundleError: when there is none.
    """
    for folder in (path, *path.parents):
        if folder.suffix == SUFFIX:
            return folder
    raise BundleError(f"{path} is not part of a {SUFFIX}")


def read_program(path: Path) -> Program:
    """Read the package that ``path`` is or lies in; weights are read whole.

    Raises:
        BundleError: when a file is missing or damaged, or it is no ML program with static shapes.
        MissingExtraError: when coremltools, whose message classes are used, is not installed.
    """
    package = package_folder(path)
    data = package / "Data"
    model_path = inside(data, _root_model(package))
    model = _message_module("Model_pb2").Model()
    try:
        model.ParseFromString(model_path.read_bytes())
    except Exception as error:  # OSError, or protobuf's own DecodeError, which has no public name
        raise BundleError(f"{model_path} is no Core ML model ({error}); build the bundle again") from None
    if model.WhichOneof("Type") != "mlProgram":
        raise BundleError(f"{model_path} holds a {model.WhichOneof('Type')}, needed: an ML program")
    reader = _Reader(model_path, {})
    try:
        functions = {
            name: reader.function(value) for name, value in sorted(model.mlProgram.functions.items())
        }
    except BundleError:
        raise
    except Exception as error:  # numbers that do not fit their type, shapes that do not fit their values
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BundleError(f"{model_path} is damaged ({reason}); build the bundle again") from None
    return Program(package, functions)


def _root_model(package: Path) -> str:
    """Path of the model below ``Data``, from the package's own list of items."""
    manifest = package / "Manifest.json"
    try:
        values = json.loads(manifest.read_text("utf-8"))
        return check_relative_path(str(values["itemInfoEntries"][values["rootModelIdentifier"]]["path"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{manifest} is not a package's manifest ({reason}); build the bundle again"
        ) from None


def _message_module(name: str) -> Any:
    """A generated protobuf module of coremltools, without importing coremltools."""
    package = "_microforge_coreml_proto"
    if package not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise missing_extra("coremltools", "coreml")
        folder = Path(found.submodule_search_locations[0]) / "proto"
        spec = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        sys.modules[package] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return importlib.import_module(f"{package}.{name}")


@dataclass(frozen=True)
class _Reader:
    """Turns messages into values; keeps the blob files that it has opened."""

    model_path: Path
    blobs: dict[str, BlobFile]

    def function(self, message: Any) -> Function:
        block = message.block_specializations[message.opset]
        inputs = {item.name: self._type(item.type, item.name) for item in message.inputs}
        return Function(
            inputs, tuple(self._operation(item) for item in block.operations), tuple(block.outputs)
        )

    def _operation(self, message: Any) -> Operation:
        if message.blocks:
            raise BundleError(
                f"{self.model_path}: operator {message.type[:80]!r} is control flow, which is not read"
            )
        inputs: dict[str, tuple[Argument, ...]] = {
            key: tuple(self._argument(item) for item in value.arguments)
            for key, value in message.inputs.items()
        }
        attributes = {key: value for key, value in message.attributes.items() if key != "name"}
        inputs |= {key: (self._constant(value, key),) for key, value in attributes.items()}
        outputs = {item.name: self._type(item.type, item.name) for item in message.outputs}
        return Operation(message.type, next(iter(outputs), "?"), inputs, outputs)

    def _argument(self, message: Any) -> Argument:
        if message.WhichOneof("binding") == "name":
            return str(message.name)
        return self._constant(message.value, "a value")

    def _type(self, message: Any, where: str) -> ValueType:
        where = _shown(where)
        if message.WhichOneof("type") != "tensorType":
            raise BundleError(
                f"{self.model_path}: {where} is a {message.WhichOneof('type')}, needed: a tensor"
            )
        tensor = message.tensorType
        if tensor.dataType not in _NAMES:
            raise BundleError(f"{self.model_path}: {where} has the unknown element type {tensor.dataType}")
        if any(item.WhichOneof("dimension") != "constant" for item in tensor.dimensions):
            raise BundleError(f"{self.model_path}: {where} has a dynamic shape, needed: a static one")
        return ValueType(
            _NAMES[tensor.dataType], tuple(int(item.constant.size) for item in tensor.dimensions)
        )

    def _constant(self, message: Any, where: str) -> Constant:
        where = _shown(where)
        kind = self._type(message.type, where)
        if message.WhichOneof("value") == "blobFileValue":
            stored = message.blobFileValue
            values = self._blob(stored.fileName).read(stored.offset, kind.dtype, math.prod(kind.shape))
            return Constant(kind, values.reshape(kind.shape))
        tensor = message.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field is None:
            raise BundleError(f"{self.model_path}: {where} has no value")
        raw = getattr(tensor, field).values
        if kind.dtype == "string":
            return Constant(kind, str(raw[0]))
        count = math.prod(kind.shape)
        flat = elements(raw, kind.dtype, count) if field == "bytes" else np.asarray(raw)
        if flat.size != count:
            raise BundleError(f"{self.model_path}: {where} has {flat.size} numbers, needed: {count}")
        return Constant(kind, flat.astype(ELEMENTS[kind.dtype].dtype).reshape(kind.shape))

    def _blob(self, name: str) -> BlobFile:
        if name not in self.blobs:
            relative = name.removeprefix(_MODEL_PATH)
            if relative == name or ".." in relative.split("/"):
                raise BundleError(
                    f"{self.model_path} names the weight file {name[:80]!r}, which is outside the package"
                )
            self.blobs[name] = BlobFile(inside(self.model_path.parent, relative))
        return self.blobs[name]


def _shown(name: str) -> str:
    """A name of the program as a message shows it."""
    return name if name.isprintable() and len(name) <= 80 else repr(name[:80])


def operator_names(program: Program) -> Iterator[str]:
    """The type of every operation of every function that computes something, in order."""
    for function in program.functions.values():
        for operation in function.operations:
            if operation.type != "const" and not operation.type.startswith("constexpr_"):
                yield operation.type
