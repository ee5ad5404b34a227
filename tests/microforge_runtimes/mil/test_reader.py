"""Packages written by hand, message by message: what is read, what is refused, and what a program then gives."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from microforge.bundle.manifest import Component, TensorSpec
from microforge.errors import BundleError, MissingExtraError
from microforge_runtimes.engines.coreml import CoreMLSession, MilSession
from microforge_runtimes.mil import reader
from microforge_runtimes.mil.interpreter import Interpreter, activation_bytes
from microforge_runtimes.mil.reader import Constant, operator_names, package_folder, read_program

pytestmark = pytest.mark.skipif(find_spec("coremltools") is None, reason="coremltools is not installed")
TYPES = {name: number for number, name in reader._NAMES.items()}


def _type(message: Any, dtype: str, shape: tuple[int, ...]) -> None:
    message.tensorType.dataType, message.tensorType.rank = TYPES[dtype], len(shape)
    for side in shape:
        message.tensorType.dimensions.add().constant.size = side


class Writer:
    """Writes one package: tensors and operations by name, then ``save``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "net.mlpackage"
        self.model = reader._message_module("Model_pb2").Model()
        self.blob = bytearray(struct.pack("<II", 0, 2).ljust(64, b"\0"))
        self.new_function("main")

    def new_function(self, name: str) -> None:
        self.function = self.model.mlProgram.functions[name]
        self.function.opset = "CoreML7"
        self.block = self.function.block_specializations["CoreML7"]

    def input(self, name: str, dtype: str, *shape: int) -> None:
        message = self.function.inputs.add()
        message.name = name
        _type(message.type, dtype, shape)

    def op(self, kind: str, output: tuple[str, str, tuple[int, ...]], **inputs: str) -> Any:
        message = self.block.operations.add()
        message.type = kind
        for key, name in inputs.items():
            message.inputs[key].arguments.add().name = name
        result = message.outputs.add()
        result.name = output[0]
        _type(result.type, *output[1:])
        return message

    def const(self, name: str, dtype: str, shape: tuple[int, ...], field: str, values: Any) -> Any:
        value = self.op("const", (name, dtype, shape)).attributes["val"]
        _type(value.type, dtype, shape)
        store = getattr(value.immediateValue.tensor, field)
        if field == "bytes":
            store.values = values
        else:
            store.values.extend(values)
        return value

    def weight(self, name: str, values: np.ndarray, file: str = "@model_path/weights/weight.bin") -> None:
        """A float16 constant in the weight file."""
        value = self.op("const", (name, "fp16", values.shape)).attributes["val"]
        _type(value.type, "fp16", values.shape)
        offset = len(self.blob)
        value.blobFileValue.fileName, value.blobFileValue.offset = file, offset
        data = values.astype("<f2").tobytes()
        self.blob += struct.pack("<IIQQQ", 0xDEADBEEF, 1, len(data), offset + 64, 0).ljust(64, b"\0")
        self.blob += data.ljust(-(-len(data) // 64) * 64, b"\0")

    def save(self, *outputs: str) -> Path:
        self.block.outputs.extend(outputs)
        content = self.path / "Data/com.apple.CoreML"
        (content / "weights").mkdir(parents=True)
        (content / "weights/weight.bin").write_bytes(self.blob)
        (content / "model.mlmodel").write_bytes(self.model.SerializeToString())
        items = {"a": {"path": "com.apple.CoreML/model.mlmodel"}}
        (self.path / "Manifest.json").write_text(
            json.dumps({"itemInfoEntries": items, "rootModelIdentifier": "a"})
        )
        return self.path


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def _affine(writer: Writer) -> Path:
    """y (1, 2) fp32 = x + w, with w fp16 from the weight file, and n = ids + 1."""
    writer.input("x", "fp32", 1, 2)
    writer.input("ids", "int32", 1, 3)
    writer.weight("w", np.array([[0.5, 1.5]]))
    writer.const("half", "string", (), "strings", ["fp16"])
    writer.const("single", "string", (), "strings", ["fp32"])
    writer.const("one", "int32", (), "ints", [1])
    writer.op("cast", ("xh", "fp16", (1, 2)), x="x", dtype="half")
    writer.op("add", ("s", "fp16", (1, 2)), x="xh", y="w")
    writer.op("cast", ("y", "fp32", (1, 2)), x="s", dtype="single")
    writer.op("add", ("n", "int32", (1, 3)), x="ids", y="one")
    return writer.save("y", "n")


INPUTS = {"x": np.array([[1.0, 1000.26]], np.float32), "ids": np.array([[1, 2, 3]], np.int32)}


def test_a_program_is_read_and_run(writer: Writer) -> None:
    program = read_program(_affine(writer))
    result = Interpreter(program, precision="fp32").run(INPUTS)
    assert_array_equal(result["y"], np.array([[1.5, 1001.76]], np.float32))
    assert_array_equal(result["n"], [[2, 3, 4]])
    assert result["n"].dtype == np.int32
    assert list(operator_names(program)) == ["cast", "add", "cast", "add"]


def test_fp16_rounds_each_value_that_the_program_declares_so(writer: Writer) -> None:
    interpreter = Interpreter(read_program(_affine(writer)))
    result = interpreter.run(INPUTS)
    assert result["y"].tolist() == [[1.5, 1002.0]]  # 1000.26 -> 1000.5, + 1.5
    assert result["y"].dtype == np.float32
    assert interpreter.peak == 1002.0


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        ("fp16", "bytes", np.array([0.5, -2], "<f2").tobytes(), [0.5, -2.0]),
        ("fp32", "floats", [0.25, 4.0], [0.25, 4.0]),
        ("bool", "bools", [True, False], [True, False]),
        ("int8", "bytes", b"\xff\x05", [-1, 5]),
        ("uint8", "bytes", b"\xff\x05", [255, 5]),
        ("int16", "ints", [-300, 5], [-300, 5]),
        ("int32", "ints", [70000, -1], [70000, -1]),
        ("uint4", "bytes", b"\x5f", [15, 5]),
    ],
)
def test_immediate_values_of_every_type_are_read(
    writer: Writer, dtype: str, field: str, values: Any, expected: list[Any]
) -> None:
    writer.const("c", dtype, (2,), field, values)
    (operation,) = read_program(writer.save("c")).function().operations
    (constant,) = operation.inputs["val"]
    assert isinstance(constant, Constant) and isinstance(constant.value, np.ndarray)
    assert constant.value.tolist() == expected and constant.type.dtype == dtype


def test_an_unknown_operator_is_refused_by_name(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.op("frobnicate", ("y", "fp32", (2,)), x="x")
    with pytest.raises(BundleError, match="no operator frobnicate"):
        Interpreter(read_program(writer.save("y")))


def test_an_unknown_parameter_is_refused_by_name(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.op("relu", ("y", "fp32", (2,)), x="x", slope="x")
    with pytest.raises(BundleError, match="relu 'y' has a parameter 'slope'"):
        Interpreter(read_program(writer.save("y")))


def test_a_result_of_another_shape_than_declared_is_refused(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.op("relu", ("y", "fp32", (3,)), x="x")
    with pytest.raises(BundleError, match=r"relu 'y' gives \[2\], the program says \[3\]"):
        Interpreter(read_program(writer.save("y"))).run({"x": np.zeros(2, np.float32)})


def test_values_are_freed_after_their_last_use(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    for index, source in enumerate(["x", "v0", "v1"]):
        writer.op("relu", (f"v{index}", "fp32", (2,)), x=source)
    interpreter = Interpreter(read_program(writer.save("v2")))
    assert [step.dead for step in interpreter._steps] == [("x",), ("v0",), ("v1",)]
    assert activation_bytes(interpreter.function) == 2 * (2 * 4)  # never more than two values of two floats


def test_functions_are_chosen_by_name_only_where_there_are_several(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.op("relu", ("y", "fp32", (2,)), x="x")
    writer.block.outputs.append("y")
    writer.new_function("edit")
    writer.input("x", "fp32", 4)
    writer.op("relu", ("y", "fp32", (4,)), x="x")
    program = read_program(writer.save("y"))
    assert program.function("edit").inputs["x"].shape == (4,)
    for name in (None, "generate"):
        with pytest.raises(BundleError, match=r"has no function .*edit, main"):
            program.function(name)


def test_one_function_answers_to_any_name(writer: Writer) -> None:
    assert set(read_program(_affine(writer)).function("denoiser").outputs) == {"y", "n"}


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: (p / "Manifest.json").unlink(), "not a package's manifest"),
        (lambda p: (p / "Manifest.json").write_text("{}"), "not a package's manifest"),
        (lambda p: (p / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b"\xff" * 9), "no Core ML model"),
        (lambda p: (p / "Data/com.apple.CoreML/model.mlmodel").write_bytes(b""), "needed: an ML program"),
        (lambda p: (p / "Data/com.apple.CoreML/weights/weight.bin").write_bytes(bytes(64)), "version 0"),
        (lambda p: (p / "Data/com.apple.CoreML/weights/weight.bin").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_package_is_refused(writer: Writer, damage: Damage, word: str) -> None:
    path = _affine(writer)
    damage(path)
    with pytest.raises(BundleError, match=word):
        read_program(path)


@pytest.mark.parametrize(
    "file", ["@model_path/../weight.bin", "/etc/hostname", "@model_path/weights/../../x"]
)
def test_a_weight_file_outside_the_package_is_refused(writer: Writer, file: str) -> None:
    writer.weight("w", np.ones(2), file)
    with pytest.raises(BundleError, match="outside the package"):
        read_program(writer.save("w"))


def test_a_dynamic_shape_is_refused(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.function.inputs[0].type.tensorType.dimensions[0].unknown.variadic = False
    with pytest.raises(BundleError, match="x has a dynamic shape"):
        read_program(writer.save("x"))


def test_control_flow_is_refused(writer: Writer) -> None:
    writer.input("x", "fp32", 2)
    writer.op("while_loop", ("y", "fp32", (2,)), x="x").blocks.add()
    with pytest.raises(BundleError, match="'while_loop' is control flow"):
        read_program(writer.save("y"))


def test_a_path_inside_the_package_names_it(tmp_path: Path) -> None:
    package = tmp_path / "a.mlpackage"
    assert package_folder(package) == package_folder(package / "Data/model.mlmodel") == package
    with pytest.raises(BundleError, match=r"not part of a \.mlpackage"):
        package_folder(tmp_path / "a.onnx")


def test_a_missing_coremltools_names_its_extra(monkeypatch: pytest.MonkeyPatch, writer: Writer) -> None:
    path = _affine(writer)
    for name in [name for name in sys.modules if name.startswith("_microforge_coreml_proto")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="coreml"):
        read_program(path)


def _spec(name: str, dtype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def _component(ids: Any = "int64", y: int = 2) -> Component:
    """A text encoder's names, on the tensors of ``_affine``: the manifest allows no others."""
    return Component.model_construct(
        role="text_encoder", size=None,
        inputs=(_spec("x", "float32", 1, 2), _spec("ids", ids, 1, 3)),
        outputs=(_spec("y", "float32", 1, y), _spec("n", ids, 1, 3)),
    )  # fmt: skip


def test_a_session_takes_int64_ids_as_the_component_declares_them(writer: Writer) -> None:
    session = MilSession(_affine(writer) / "Data/com.apple.CoreML/model.mlmodel", _component())
    result = session.run({**INPUTS, "ids": INPUTS["ids"].astype(np.int64)})
    assert result["n"].dtype == np.int64 and result["n"].tolist() == [[2, 3, 4]]
    with pytest.raises(ValueError, match="ids is int32"):
        session.run(INPUTS)


def test_a_session_whose_tensors_are_not_the_components_is_refused(writer: Writer) -> None:
    with pytest.raises(BundleError, match=r"'y' is float32\[1, 2\], the manifest says float32\[1, 5\]"):
        MilSession(_affine(writer), _component(y=5))


def test_a_closed_session_does_not_run(writer: Writer) -> None:
    session = MilSession(_affine(writer), _component("int32"))
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run(INPUTS)


def test_core_ml_itself_is_refused_off_macos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(BundleError, match="--target coreml draws on macOS only"):
        CoreMLSession(tmp_path / "a.mlpackage", _component())
