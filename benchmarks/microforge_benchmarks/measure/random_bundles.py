"""Bundles of configurations that nobody has trained: time and memory do not depend on the weights' values.

Needs the extra ``export``: the checkpoint is written with torch and built by ``mf-export`` in a process of its
own, since the packages of benchmarks and export do not import one another.
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

Form = Literal["preset", "dense", "chunked", "linear"]
Precision = Literal["fp32", "int8"]
STEPS = 4
#: Integers wherever an operator can have them. Nothing is asked of the images: random weights draw noise, and a
#: rounding in one step may turn all of it in the next.
_RECIPE = """\
model = "{model}"
target = "onnx"
[host]
machine = "any"
instructions = []
threads = 1
[calibration]
drawings = 1
inputs = 4
[limits]
component_psnr_db = -1000.0
images = 1
image_psnr_median_db = -1000.0
image_psnr_worst_db = -1000.0
survival_low = 0.0
survival_high = 1000.0
plan_drift = 1000.0
[schemes.text_encoder]
"*" = "dynamic"
[schemes.denoiser]
"*" = "dynamic"
[schemes.vae_decoder]
"*" = "static"
[schemes.vae_encoder]
"*" = "static"
"""
#: ``dense_limit``: up to so many tokens the SSM is dense, beyond it chunked (SPEC section 3).
_LIMITS: dict[Form, int] = {"dense": 1 << 30, "chunked": 0, "linear": 0}
_BUILD = "from microforge_export.cli import main; main()"
_TIMEOUT_S = 3600


def scaling_spec(config: str, form: Form) -> ModelSpec:
    """The preset ``config`` with four folded steps; for "dense" and "chunked" with that form of the SSM at every
    size, and a VAE that is too small to matter, since only the denoiser is of interest then. "linear" is "chunked"
    without the shared attention, the one part of the backbone that is quadratic in any form.

    Raises:
        SpecError: for an unknown configuration.
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


def random_bundle(config: str, form: Form, side: int, cache: Path, precision: Precision = "fp32") -> Bundle:
    """The bundle for ``side`` x ``side`` pixels in the folder ``cache``; built once.

    Raises:
        SpecError: for an unknown configuration or a side that it cannot have.
        BundleError: when ``mf-export`` cannot build it. MissingExtraError: without torch.
    """
    path = cache / f"{config}-{form}-{side}{'' if precision == 'fp32' else '-int8'}.mfb"
    if not path.exists():
        spec = scaling_spec(config, form)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            checkpoint = Path(folder) / "checkpoint"
            write_random(spec, checkpoint)
            words = ["build", str(checkpoint), "--out", str(path), "--size", str(side)]
            if precision == "int8":
                recipe = Path(folder) / "recipe.toml"
                recipe.write_text(_RECIPE.format(model=config), "utf-8")
                words += ["--precision", precision, "--recipe", str(recipe)]
            found = run_group([sys.executable, "-c", _BUILD, *words], _TIMEOUT_S)
        if found is None or found[0] != 0:
            said = (
                f"no result after {_TIMEOUT_S} s" if found is None else found[2].strip().rpartition("\n")[2]
            )
            raise BundleError(f"mf-export cannot build {config} at {side} px: {said}")
    return load_bundle(path)


def write_random(spec: ModelSpec, folder: Path) -> None:
    """A checkpoint of ``spec`` in ``folder``; no weight is zero, so nothing can be left out of a graph.

    Raises:
        MissingExtraError: without torch.
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
