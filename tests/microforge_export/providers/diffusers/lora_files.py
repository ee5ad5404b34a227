"""Random LoRA files for tiny models."""

from __future__ import annotations

from pathlib import Path

import torch


def write_lora(folder: Path, file: Path, rank: int = 2) -> Path:
    """A LoRA over the attention layers of the model in ``folder``, in the library's own format."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    unet.add_adapter(
        LoraConfig(r=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    )
    torch.manual_seed(0)
    for name, value in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(value, std=0.5)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(file.parent, unet_lora_layers=layers, weight_name=file.name)
    return file
