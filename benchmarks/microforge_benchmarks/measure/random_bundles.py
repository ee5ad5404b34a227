"""Bundles of configurations with random weights, for measurements of time and memory, which do not depend on them.

The checkpoint is written with torch and built by ``mf-export`` in a process of its own, because the packages of
benchmarks and export do not import one another. Needs the extra ``export``.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from microforge.bundle.files import Bundle, load_bundle
from microforge.errors import BundleError, missing_extra
from microforge.spec import ModelSpec, SamplerSpec, VAESpec, preset
from microforge_benchmarks.measure.latency import run_group

SSMForm = Literal["preset", "dense", "chunked", "linear"]
Precision = Literal["fp32", "int8"]
STEPS = 4
#: Recipe that quantizes every operator that can be quantized. Image quality is not limited: random weights generate noise.
RECIPE = """\
model = "{model}"
target = "onnx"
[host]
machine = "any"
instructions = []
threads = 1
[calibration]
samples = 1
inputs = 4
[limits]
component_psnr_db = -1000.0
images = 1
image_psnr_median_db = -1000.0
image_psnr_worst_db = -1000.0
guidance_norm_ratio_low = 0.0
guidance_norm_ratio_high = 1000.0
relative_state_error = 1000.0
[schemes.text_encoder]
"*" = "dynamic"
[schemes.denoiser]
"*" = "dynamic"
[schemes.vae_decoder]
"*" = "static"
[schemes.vae_encoder]
"*" = "static"
"""
#: Largest number of tokens for which the SSM uses its dense form, ``BackboneSpec.dense_limit`` (SPEC section 3).
_LIMITS: dict[SSMForm, int] = {"dense": 1 << 30, "chunked": 0, "linear": 0}
_BUILD = "from microforge_export.cli import main; main()"
_TIMEOUT_S = 3600


def scaling_spec(config: str, form: SSMForm) -> ModelSpec:
    """The preset ``config`` with four guidance-distilled steps, and one form of the SSM at every size.

    The forms other than "preset" have a very small VAE, because only the denoiser is of interest. "linear" is "chunked"
    without the shared attention, the only part of the backbone that is quadratic in the number of tokens.

    Raises:
        SpecError: when the configuration is unknown.
    """
    spec = preset(config)
    grid = tuple(1 - step / STEPS for step in range(STEPS + 1))
    spec = replace(spec, sampler=SamplerSpec(timesteps=grid, guidance_distilled=True))
    if form == "preset":
        return spec
    ones = (1, 1, 1, 1)
    small = VAESpec((8, 8, 16, 16), spec.vae.latent_channels, ones, ones, mid_depth=1)
    return replace(
        spec,
        vae=small,
        backbone=replace(spec.backbone, dense_limit=_LIMITS[form], use_shared_attention=form != "linear"),
    )


def random_bundle(
    config: str, form: SSMForm, side: int, cache: Path, precision: Precision = "fp32"
) -> Bundle:
    """Open the bundle for ``side`` x ``side`` pixels in the folder ``cache``; it is built if it is not there.

    Raises:
        SpecError: when the configuration is unknown, or cannot have this side.
        BundleError: when ``mf-export`` cannot build the bundle.
        MissingExtraError: when torch is not installed.
    """
    path = cache / f"{config}-{form}-{side}{'' if precision == 'fp32' else '-int8'}.mfb"
    if not path.exists():
        spec = scaling_spec(config, form)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            checkpoint = Path(folder) / "checkpoint"
            write_random(spec, checkpoint)
            arguments = ["build", str(checkpoint), "--out", str(path), "--size", str(side)]
            if precision == "int8":
                recipe = Path(folder) / "recipe.toml"
                recipe.write_text(RECIPE.format(model=config), "utf-8")
                arguments += ["--precision", precision, "--recipe", str(recipe)]
            result = run_group([sys.executable, "-c", _BUILD, *arguments], _TIMEOUT_S)
        if result is None:
            raise BundleError(f"mf-export cannot build {config} at {side} px: no result after {_TIMEOUT_S} s")
        if result[0] != 0:
            last_line = result[2].strip().rpartition("\n")[2]
            raise BundleError(f"mf-export cannot build {config} at {side} px: {last_line}")
    return load_bundle(path)


def write_random(spec: ModelSpec, folder: Path) -> None:
    """Write a checkpoint of ``spec`` with random weights; none is zero, so an exporter cannot remove any operator.

    Raises:
        MissingExtraError: when torch is not installed.
    """
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "export") from None
    from microforge.checkpoint import SHIPPED_TEACHER
    from microforge.pipeline import MicroForgePipeline
    from microforge.tokenizer import PromptTokenizer

    torch.manual_seed(0)
    pipeline = MicroForgePipeline.from_spec(spec, PromptTokenizer.load(SHIPPED_TEACHER / "tokenizer.json"))
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.02)
    pipeline.save_pretrained(folder)
