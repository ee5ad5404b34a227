"""Every rewrite removes the operators that it names and keeps the result; a graph without its pattern is unchanged."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import parser

from microforge_export.targets.onnx.lower import fold
from microforge_export.targets.onnx.rewrites import fewer_operators

HEAD = '<ir_version: 9, opset_import: ["": 20]> g '
#: name -> graph, and the operators that the rewritten one has.
CASES = {
    "vectors by split": (
        """(float[1,2,4] rows, float[1,3,4] x) => (float[1,3,4] y) {
            axes = Constant<value_ints=[2]>()
            one = Constant<value=float {1}>()
            first = Constant<value=int64 {0}>()
            last = Constant<value=int64 {1}>()
            wide = Unsqueeze(rows, axes)
            gain = Gather<axis=1>(wide, first)
            shift = Gather<axis=1>(wide, last)
            more = Add(gain, one)
            scaled = Mul(x, more)
            y = Add(scaled, shift)
        }""",
        {"Reshape": 1, "Split": 1, "Add": 2, "Mul": 1},
    ),
    "modulated norm": (
        """(float[1,3,4] x, float[1,1,4] gain, float[1,1,4] shift) => (float[1,3,4] y) {
            ones = Constant<value=float[4] {1,1,1,1}>()
            normed = LayerNormalization<axis=-1, epsilon=0.001>(x, ones)
            scaled = Mul(normed, gain)
            y = Add(scaled, shift)
        }""",
        {"Reshape": 2, "LayerNormalization": 1},
    ),
    "root mean square": (
        """(float[1,3,4] x) => (float[1,3,4] y) {
            two = Constant<value=float {2}>()
            axes = Constant<value_ints=[-1]>()
            square = Pow(x, two)
            mean = ReduceMean(square, axes)
            root = Sqrt(mean)
            inverse = Reciprocal(root)
            y = Mul(x, inverse)
        }""",
        {"Pow": 1, "ReduceMean": 1, "Sqrt": 1, "Div": 1},
    ),
    "bias without reshape": (
        """(float[2,3,5] x, float[1,5] bias) => (float[2,3,5] y) {
            four = Constant<value_ints=[1,2,3,5]>()
            ones = Constant<value_ints=[1,1,1,5]>()
            three = Constant<value_ints=[2,3,5]>()
            wide = Reshape(x, four)
            shaped = Reshape(bias, ones)
            added = Add(wide, shaped)
            y = Reshape(added, three)
        }""",
        {"Add": 1},
    ),
    "broadcast without unsqueeze": (
        """(float[1,3,3] x, float[1,2,3,3] heads) => (float[1,2,3,3] y) {
            axes = Constant<value_ints=[1]>()
            wide = Unsqueeze(x, axes)
            y = Mul(heads, wide)
        }""",
        {"Mul": 1},
    ),
    "heads out of tokens": (
        """(float[1,3,8] x) => (float[2,3,4] y) {
            four = Constant<value_ints=[1,3,2,4]>()
            three = Constant<value_ints=[2,3,4]>()
            split = Reshape(x, four)
            turned = Transpose<perm=[0,2,1,3]>(split)
            y = Reshape(turned, three)
        }""",
        {"Reshape": 1, "Transpose": 1},
    ),
    "tokens out of heads": (
        """(float[2,3,4] x) => (float[1,3,8] y) {
            four = Constant<value_ints=[1,2,3,4]>()
            three = Constant<value_ints=[1,3,8]>()
            wide = Reshape(x, four)
            turned = Transpose<perm=[0,2,1,3]>(wide)
            y = Reshape(turned, three)
        }""",
        {"Transpose": 1, "Reshape": 1},
    ),
    "shift in table": (
        """(float[1,2,3] rows, float[1,5,3] x) => (float[1,5,3] y) {
            table = Constant<value=float[1,2,3] {1,2,3,4,5,6}>()
            flat = Constant<value_ints=[-1]>()
            sizes = Constant<value_ints=[3,3]>()
            one = Constant<value=float {1}>()
            summed = Add(rows, table)
            line = Reshape(summed, flat)
            first, second = Split<axis=0>(line, sizes)
            more = Add(second, one)
            scaled = Mul(x, more)
            y = Add(scaled, first)
        }""",
        {"Add": 2, "Reshape": 1, "Split": 1, "Mul": 1},
    ),
    "positions in product": (
        """(float[1,2,3] x) => (float[1,3,2] y) {
            weight = Constant<value=float[2,2] {1,2,3,4}>()
            bias = Constant<value=float[2] {1,2}>()
            positions = Constant<value=float[1,3,2] {1,2,3,4,5,6}>()
            turned = Transpose<perm=[0,2,1]>(x)
            product = MatMul(turned, weight)
            biased = Add(product, bias)
            y = Add(biased, positions)
        }""",
        {"Reshape": 2, "Gemm": 1},
    ),
    "positions in product of tokens": (
        """(float[1,3,2] x) => (float[1,3,2] y) {
            weight = Constant<value=float[2,2] {1,2,3,4}>()
            bias = Constant<value=float[2] {1,2}>()
            positions = Constant<value=float[1,3,2] {1,2,3,4,5,6}>()
            product = MatMul(x, weight)
            biased = Add(product, bias)
            y = Add(biased, positions)
        }""",
        {"Reshape": 2, "Gemm": 1},
    ),
    "convolution of tokens": (
        """(float[1,6,2] x) => (float[1,6,2] y) {
            weight = Constant<value=float[2,1,3,3] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9}>()
            grid = Constant<value_ints=[1,2,2,3]>()
            line = Constant<value_ints=[1,2,6]>()
            turned = Transpose<perm=[0,2,1]>(x)
            wide = Reshape(turned, grid)
            mixed = Conv<group=2, pads=[1,1,1,1]>(wide, weight)
            flat = Reshape(mixed, line)
            y = Transpose<perm=[0,2,1]>(flat)
        }""",
        {"Reshape": 2, "Transpose": 2, "Conv": 1},
    ),
}  # fmt: skip
#: name -> graph, and operators that replace others which are slower, though they are more.
SLOWER = {
    "norm without skip": (
        """(float[1,3,2] x, float[1,3,2] z) => (float[1,3,2] y) {
            weights = Constant<value=float[2] {1,2}>()
            bias = Constant<value=float[2] {1,2}>()
            added = Add(x, z)
            y = LayerNormalization<axis=-1>(added, weights, bias)
        }""",
        {"Add": 1, "Reshape": 2, "LayerNormalization": 1},
    ),
}  # fmt: skip
#: Like a pattern, and not it.
OTHERS = {
    "a row that is no operand of a broadcast": """(float[1,2,4] rows) => (float[1,1,8] y) {
        axes = Constant<value_ints=[2]>()
        first = Constant<value=int64 {0}>()
        wide = Unsqueeze(rows, axes)
        row = Gather<axis=1>(wide, first)
        y = Concat<axis=2>(row, row)
    }""",
    "a norm with weights of its own": """(float[1,3,4] x, float[1,1,4] gain, float[1,1,4] shift) => (float[1,3,4] y) {
        weights = Constant<value=float[4] {1,2,1,1}>()
        normed = LayerNormalization<axis=-1>(x, weights)
        scaled = Mul(normed, gain)
        y = Add(scaled, shift)
    }""",
    "a modulation by a whole tensor": """(float[1,3,4] x, float[1,3,4] gain, float[1,1,4] shift) => (float[1,3,4] y) {
        ones = Constant<value=float[4] {1,1,1,1}>()
        normed = LayerNormalization<axis=-1>(x, ones)
        scaled = Mul(normed, gain)
        y = Add(scaled, shift)
    }""",
    "a mean over channels": """(float[1,1,3] mean, float[1,2,3] x) => (float[1,2,3] y) {
        root = Sqrt(mean)
        inverse = Reciprocal(root)
        y = Mul(x, inverse)
    }""",
    "a norm of no static shape": """(float[n,4] x, float[1,4] gain, float[1,4] shift) => (float[n,4] y) {
        ones = Constant<value=float[4] {1,1,1,1}>()
        normed = LayerNormalization<axis=-1>(x, ones)
        scaled = Mul(normed, gain)
        y = Add(scaled, shift)
    }""",
    "a norm of a sum that is read again": """(float[1,3,2] x, float[1,3,2] z) => (float[1,3,2] y) {
        weights = Constant<value=float[2] {1,2}>()
        added = Add(x, z)
        normed = LayerNormalization<axis=-1>(added, weights)
        y = Add(added, normed)
    }""",
    "a sum with a part that is read again": """(float[1,2,3] rows) => (float[6] y) {
        table = Constant<value=float[1,2,3] {1,2,3,4,5,6}>()
        flat = Constant<value_ints=[-1]>()
        sizes = Constant<value_ints=[3,3]>()
        one = Constant<value=float {1}>()
        summed = Add(rows, table)
        line = Reshape(summed, flat)
        first, second = Split<axis=0>(line, sizes)
        more = Add(second, one)
        y = Concat<axis=0>(second, more)
    }""",
    "an unsqueeze that widens the result": """(float[1,3,3] x, float[3] v) => (float[1,1,3,3] y) {
        axes = Constant<value_ints=[1]>()
        wide = Unsqueeze(x, axes)
        y = Mul(wide, v)
    }""",
}  # fmt: skip


def graph_of(text: str) -> onnx.ModelProto:
    model = onnx.shape_inference.infer_shapes(parser.parse_model(HEAD + text))
    return ir.to_proto(fold(ir.from_proto(model)))


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    rng = np.random.default_rng(0)
    shapes = {
        item.name: [side if isinstance(side, int) else 2 for side in item.shape]
        for item in session.get_inputs()
    }
    feeds = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    return ir.to_proto(fold(fewer_operators(ir.from_proto(model))))


@pytest.mark.parametrize("name", CASES)
def test_rewrite_leaves_operators_out_and_computes_the_same(name: str) -> None:
    text, expected = CASES[name]
    before = graph_of(text)
    after = rewritten(before)
    assert Counter(node.op_type for node in after.graph.node) == Counter(expected)
    assert len(after.graph.node) <= len(before.graph.node)
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SLOWER)
def test_rewrite_replaces_operators_by_faster_ones(name: str) -> None:
    text, expected = SLOWER[name]
    before = graph_of(text)
    after = rewritten(before)
    assert Counter(node.op_type for node in after.graph.node) == Counter(expected)
    assert [item.name for item in after.graph.output] == [item.name for item in before.graph.output]
    np.testing.assert_allclose(run(after), run(before), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OTHERS)
def test_rewrite_leaves_what_is_only_alike(name: str) -> None:
    before = graph_of(OTHERS[name])
    after = rewritten(before)
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
    np.testing.assert_array_equal(run(after), run(before))
