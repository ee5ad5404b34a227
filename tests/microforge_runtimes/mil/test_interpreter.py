"""Programs that coremltools writes: compressed weights as it decompresses them, torch modules as torch runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge_runtimes.arrays import Array
from microforge_runtimes.mil.interpreter import Interpreter
from microforge_runtimes.mil.reader import read_program

ct = pytest.importorskip("coremltools")
tools = ct.optimize.coreml


def _converted(module: nn.Module, inputs: tuple[Tensor, ...], precision: str, target: str = "iOS18") -> Any:
    program = torch.export.export(module.eval(), inputs).run_decompositions({})
    return ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision[precision],
        outputs=[ct.TensorType(name="y", dtype=np.float32)],
        skip_model_load=True,
    )


def _interpreter(model: Any, folder: Path) -> Interpreter:
    model.save(str(folder / "net.mlpackage"))
    return Interpreter(read_program(folder / "net.mlpackage"))


class Mixture(nn.Module):
    """Operators that other image models use: strided and transposed convolutions, group norm, attention, resizing."""

    places: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(4, 8, 3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8)
        self.norm = nn.GroupNorm(2, 8)
        self.heads = nn.Linear(8, 24)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1)
        self.batch = nn.BatchNorm2d(6)
        self.register_buffer("places", torch.tensor([5, 0, 3]))
        for buffer in (self.batch.running_mean, self.batch.running_var):
            assert buffer is not None
            buffer.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm(self.depthwise(self.down(F.pad(x, (1, 1, 0, 2), "reflect")))), 0.1)
        batch, channels, height, width = x.shape
        query, key, value = self.heads(x.flatten(2).mT).reshape(batch, -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + mixed.mT.reshape(batch, channels, height, width)
        x = F.interpolate(self.batch(self.up(x)), scale_factor=2.0, mode="nearest")
        low, high = torch.split_with_sizes(x[:, :, 1:-1:2], [2, 4], 1)
        x = torch.cat([torch.where(low > 0, low, low.exp()), torch.cumsum(high, -1)], 1)[:, self.places]
        return torch.stack([x.amax(1), x.std(1), x.logsumexp(1)], 1) / x.square().mean(1, True).sqrt()


def test_a_mixture_of_operators_gives_what_torch_gives(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, image = Mixture(), torch.randn(1, 4, 10, 12)
    interpreter = _interpreter(_converted(module, (image,), "FLOAT32"), tmp_path)
    with torch.no_grad():
        expected = module.eval()(image).numpy()
    (name,) = interpreter.function.inputs
    np.testing.assert_allclose(interpreter.run({name: image.numpy()})["y"], expected, rtol=1e-4, atol=1e-4)


def _palette(target: str, **options: Any) -> Callable[[Any], Any]:
    grouped = {"granularity": "per_grouped_channel", "group_size": 16} if target == "iOS18" else {}
    config = tools.OptimizationConfig(tools.OpPalettizerConfig(mode="kmeans", **grouped, **options))
    return lambda model: tools.palettize_weights(model, config)


def _linear(**options: Any) -> Callable[[Any], Any]:
    config = tools.OptimizationConfig(tools.OpLinearQuantizerConfig(**options))
    return lambda model: tools.linear_quantize_weights(model, config)


def _pruned(model: Any) -> Any:
    config = tools.OptimizationConfig(tools.OpMagnitudePrunerConfig(target_sparsity=0.7))
    return tools.prune_weights(model, config)


COMPRESSIONS = {
    "affine int8": ("iOS17", _linear(dtype="int8"), "constexpr_affine_dequantize"),
    "affine uint8 with a zero point": ("iOS17", _linear(dtype="uint8", mode="linear"), "constexpr_affine_dequantize"),
    "palette of 6 bits": ("iOS17", _palette("iOS17", nbits=6), "constexpr_lut_to_dense"),
    "palette of 4 bits": ("iOS17", _palette("iOS17", nbits=4), "constexpr_lut_to_dense"),
    "sparse": ("iOS17", _pruned, "constexpr_sparse_to_dense"),
    "int8, iOS 18": ("iOS18", _linear(dtype="int8"), "constexpr_blockwise_shift_scale"),
    "int4 in blocks with offsets": (
        "iOS18", _linear(dtype="int4", mode="linear", granularity="per_block", block_size=32), "constexpr_blockwise_shift_scale",
    ),
    "palettes of 6 bits in groups": ("iOS18", _palette("iOS18", nbits=6), "constexpr_lut_to_dense"),
    "palettes of 3 bits in groups": ("iOS18", _palette("iOS18", nbits=3), "constexpr_lut_to_dense"),
    "palette of vectors": ("iOS18", _palette("iOS17", nbits=4, cluster_dim=4), "constexpr_lut_to_dense"),
    "sparse, iOS 18": ("iOS18", _pruned, "constexpr_sparse_to_dense"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """One layer of 64 x 96 weights in half precision, per deployment target."""
    torch.manual_seed(2)
    layer = nn.Linear(96, 64)
    return {
        target: _converted(layer, (torch.ones(1, 96),), "FLOAT16", target) for target in ("iOS17", "iOS18")
    }


def _weight(interpreter: Interpreter) -> Array:
    found = [value for value in interpreter._constants.values() if np.shape(value) == (64, 96)]
    assert len(found) == 1 and isinstance(found[0], np.ndarray)
    return found[0]


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_are_what_coremltools_makes_of_them(
    name: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    target, compress, operator = COMPRESSIONS[name]
    compressed = compress(plain[target])
    (tmp_path / "dense").mkdir()
    found = _interpreter(compressed, tmp_path)
    assert operator in {operation.type for operation in found.function.operations}
    expected = _interpreter(tools.decompress_weights(compressed), tmp_path / "dense")
    assert not np.array_equal(_weight(found), _weight(_interpreter(plain[target], tmp_path / "dense")))
    np.testing.assert_array_equal(_weight(found), _weight(expected))


def test_the_interpreter_needs_neither_torch_nor_coremltools(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["iOS17"].save(str(tmp_path / "net.mlpackage"))
    code = (
        "import sys, numpy\n"
        "from pathlib import Path\n"
        "from microforge_runtimes.mil.interpreter import Interpreter\n"
        "from microforge_runtimes.mil.reader import read_program\n"
        "net = Interpreter(read_program(Path(sys.argv[1])))\n"
        "net.run({name: numpy.ones(kind.shape, 'float32') for name, kind in net.function.inputs.items()})\n"
        "assert not {'torch', 'coremltools'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.mlpackage")], check=True)
