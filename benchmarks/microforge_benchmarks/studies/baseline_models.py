"""Baseline models for compute: public configurations with random weights, run in ONNX Runtime.

Time and memory do not depend on the weights, so nothing is downloaded, and nothing is stated about quality. Text
encoders are left out in favour of the baselines, all of which use a larger one. Needs the extra ``baselines``.

    python -m microforge_benchmarks.studies.baseline_models FOLDER STEPS THREADS

generates one image with an exported baseline and prints the peak RSS of the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microforge.errors import SpecError, missing_extra
from microforge.io.atomic import atomic_folder
from microforge.io.quiet import quiet
from microforge_benchmarks.measure.latency import run_group

SHAPES, UNET, DECODER = "shapes.json", "unet.onnx", "decoder.onnx"
DOWNSAMPLE = 8  # pixels per latent position of TAESD, per side
TEXT_TOKENS = 77  # of CLIP's text encoders
OPSET = 20
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class BaselineModel:
    """Arguments of diffusers' ``UNet2DConditionModel`` and ``AutoencoderTiny``; others keep their defaults."""

    unet: Mapping[str, Any]
    decoder: Mapping[str, Any]


_DOWN_BLOCKS, _UP_BLOCKS = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3
#: From the models' public ``unet/config.json`` files; both with TAESD (``AutoencoderTiny``'s defaults) as decoder.
#: SD-Turbo has Stable Diffusion 2.1's network (866 M parameters), BK-SDM-Tiny (arXiv 2305.15798) a pruned 1.4 (323 M).
BASELINES: Mapping[str, BaselineModel] = {
    "sd-turbo": BaselineModel(
        unet={
            "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        decoder={},
    ),
    "bk-sdm-tiny": BaselineModel(
        unet={
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "layers_per_block": 1,
            "block_out_channels": (320, 640, 1280), "down_block_types": _DOWN_BLOCKS, "up_block_types": _UP_BLOCKS,
            "mid_block_type": None,
        },
        decoder={},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class InputShapes:
    """Shapes of the exported networks' inputs, with batch 1."""

    latent: tuple[int, ...]
    text: tuple[int, ...]


def export_baseline(
    name: str, size: tuple[int, int], cache: Path, models: Mapping[str, BaselineModel] = BASELINES
) -> Path:
    """Export ``name`` for ``size`` (height, width), unless ``cache`` has it; return the folder of its ONNX files.

    Raises:
        SpecError: when the name is unknown.
        MissingExtraError: when diffusers or torch is not installed.
    """
    if name not in models:
        raise SpecError(f"unknown baseline {name!r}; allowed: {', '.join(models)}")
    path = cache / f"{name}-{size[0]}x{size[1]}"
    if not (path / SHAPES).is_file():
        with atomic_folder(path, force=True, marker=SHAPES) as folder:
            _export(models[name], size, folder)
    return path


def _export(model: BaselineModel, size: tuple[int, int], folder: Path) -> None:
    try:
        with quiet("torch.utils._pytree"):  # a warning of torchao, which diffusers imports if it is installed
            import torch
            from diffusers import AutoencoderTiny, UNet2DConditionModel
    except ImportError:
        raise missing_extra("diffusers", "baselines") from None

    class Unet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = UNet2DConditionModel(**model.unet)

        def forward(self, latent: Any, t: Any, text: Any) -> Any:
            return self.unet(latent, t, text, return_dict=False)[0]

    decoder = AutoencoderTiny(**model.decoder).decoder
    network = Unet()
    channels, width = network.unet.config.in_channels, network.unet.config.cross_attention_dim
    shapes = InputShapes((1, channels, size[0] // DOWNSAMPLE, size[1] // DOWNSAMPLE), (1, TEXT_TOKENS, width))
    latent, text = torch.zeros(shapes.latent), torch.zeros(shapes.text)
    jobs = (
        (network, (latent, torch.zeros(1), text), ["latent", "t", "text"], UNET),
        (decoder, (latent,), ["latent"], DECODER),
    )
    for module, inputs, names, file in jobs:
        with torch.no_grad(), quiet("torch.onnx"):
            torch.onnx.export(
                module.eval(), inputs, str(folder / file), dynamo=True, opset_version=OPSET, input_names=names,
                output_names=["output"], external_data=True, optimize=False, verbose=False,
            )  # fmt: skip
    (folder / SHAPES).write_text(json.dumps(asdict(shapes)), "utf-8")


class BaselineSampler:
    """A loaded baseline; a call evaluates its denoiser ``steps`` times and its decoder once."""

    def __init__(self, folder: Path, steps: int, threads: int | None) -> None:
        """Load the ONNX files in ``folder``.

        Raises:
            MissingExtraError: when onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError:
            raise missing_extra("onnxruntime", "onnx") from None
        shapes = json.loads((folder / SHAPES).read_text("utf-8"))
        self._latent = np.random.default_rng(0).standard_normal(shapes["latent"], np.float32)
        self._text = np.zeros(shapes["text"], np.float32)
        self._steps = steps
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._unet, self._decoder = (
            onnxruntime.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
            for file in (UNET, DECODER)
        )

    def __call__(self) -> object:
        z = self._latent
        for step in range(self._steps):
            t = np.full(1, 999 * (1 - step / self._steps), np.float32)
            inputs = {"latent": z, "t": t, "text": self._text}
            z = z - self._unet.run(None, inputs)[0] / np.float32(self._steps)
        return self._decoder.run(None, {"latent": z})[0]


def baseline_peak(folder: Path, steps: int, threads: int | None) -> int | None:
    """Peak RSS in bytes of a new process that generates one image; None when the process fails."""
    module = "microforge_benchmarks.studies.baseline_models"
    command = [sys.executable, "-m", module, str(folder), str(steps), str(threads or 0)]
    result = run_group(command, _TIMEOUT_S)
    return None if result is None or result[0] != 0 else int(result[1].split()[-1])


def main(folder: str, steps: str, threads: str) -> None:
    """Generate one image and print the peak RSS of this process."""
    from microforge_benchmarks.measure.memory import peak_resident_bytes

    BaselineSampler(Path(folder), int(steps), int(threads) or None)()
    print(peak_resident_bytes() or sys.exit("the kernel does not report the peak of memory"))


if __name__ == "__main__":
    main(*sys.argv[1:4])
