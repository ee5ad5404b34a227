"""Tiny random models of diffusers' classes, written as the library writes any model."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from microforge_benchmarks.conformance import tokenizer_cases

CLIP_TOKENIZER = Path(tokenizer_cases.__file__).with_name("clip.tokenizer.json.gz")
BETAS: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@cache
def _tokenizer_file() -> str:
    path = Path(mkdtemp()) / "tokenizer.json"
    path.write_bytes(gzip.decompress(CLIP_TOKENIZER.read_bytes()))
    return str(path)


def _clip_tokenizer(pad: str = "<|endoftext|>") -> Any:
    from transformers import CLIPTokenizerFast

    return CLIPTokenizerFast(
        tokenizer_file=_tokenizer_file(), model_max_length=77, pad_token=pad,
        bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
    )  # fmt: skip


def _text_encoder(width: int = 16, projected: bool = False, eos: int = 2) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=2 * width, num_attention_heads=2, num_hidden_layers=2,
        vocab_size=49408, projection_dim=16, max_position_embeddings=77, eos_token_id=eos, bos_token_id=0,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def _unet(cross: int = 16, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    settings: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": cross, "attention_head_dim": 4,
    }  # fmt: skip
    return UNet2DConditionModel(**{**settings, **more})


def _kl() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8, 8, 8), norm_num_groups=2, layers_per_block=1, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def tiny_vae() -> Any:
    """An AutoencoderTiny: 8 pixels per latent cell."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1), num_decoder_blocks=(1, 1, 1, 1),
    )  # fmt: skip


def _sd(scheduler: Any, unet: Any, vae: Any = None, pipeline: str = "StableDiffusionPipeline") -> Any:
    import diffusers

    return getattr(diffusers, pipeline)(
        vae=vae or _kl(), text_encoder=_text_encoder(), tokenizer=_clip_tokenizer(), unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sd15() -> Any:
    """Stable Diffusion 1.5: PNDM, noise prediction."""
    from diffusers import PNDMScheduler

    return _sd(PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False), _unet())


def sd2() -> Any:
    """Stable Diffusion 2: DDIM, v-prediction, linear projections."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction", clip_sample=False, steps_offset=1)
    return _sd(scheduler, _unet(use_linear_projection=True))


def sd_turbo() -> Any:
    """SD-Turbo: one Euler step."""
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing")
    return _sd(scheduler, _unet(use_linear_projection=True))


def lcm() -> Any:
    """A latent consistency model: the guidance scale is an input of the network."""
    from diffusers import LCMScheduler

    unet = _unet(time_cond_proj_dim=32)
    return _sd(LCMScheduler(**BETAS), unet, pipeline="LatentConsistencyModelPipeline")


def bk_sdm() -> Any:
    """BK-SDM-Tiny: no middle block; DPM-Solver++ 2M here, which keeps a history."""
    from diffusers import DPMSolverMultistepScheduler

    return _sd(DPMSolverMultistepScheduler(**BETAS), _unet(mid_block_type=None))


def sdxs() -> Any:
    """SDXS: one step and the tiny autoencoder."""
    from diffusers import EulerDiscreteScheduler

    return _sd(
        EulerDiscreteScheduler(**BETAS, timestep_spacing="trailing"), _unet(mid_block_type=None), tiny_vae()
    )


def sdxl_turbo() -> Any:
    """SDXL-Turbo: two text encoders, time ids, ancestral noise."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionXLPipeline

    unet = _unet(
        32, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=8 * 6 + 16,
        transformer_layers_per_block=1, use_linear_projection=True,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_kl(), text_encoder=_text_encoder(), text_encoder_2=_text_encoder(projected=True, eos=49407),
        tokenizer=_clip_tokenizer(), tokenizer_2=_clip_tokenizer("!"), unet=unet,
        scheduler=EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing"), force_zeros_for_empty_prompt=True,
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "sd15": sd15, "sd2": sd2, "sd-turbo": sd_turbo, "lcm": lcm, "bk-sdm": bk_sdm, "sdxs": sdxs, "sdxl-turbo": sdxl_turbo,
}  # fmt: skip


def save(family: str, folder: Path, sharp: float = 2.0, **options: Any) -> Path:
    """Write the model of a family to ``folder`` with random weights of a fixed seed; returns the folder.

    ``sharp`` multiplies the decoder's last layer, so that images of random weights have some contrast.
    """
    torch.manual_seed(1)
    pipeline = FAMILIES[family]()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=True, **options)
    return folder
