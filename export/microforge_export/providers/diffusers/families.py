"""How published families of models want to be sampled, where no file of the folder says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Steps of a model that is not distilled to few steps.
_STEPS = 20


@dataclass(frozen=True)
class SamplingDefaults:
    """Steps and guidance scale of a model, and why; guidance 1 is none."""

    steps: int
    guidance: float
    reason: str


def sampling_defaults(pipeline: str, scheduler: Any, unet_config: Any, name: str) -> SamplingDefaults:
    """What a folder's configurations imply.

    Args:
        pipeline: class of the pipeline.
        scheduler: of the folder, or the one that the user chose.
        unet_config: configuration of the denoising network.
        name: of the folder, in which some authors say what the model is.
    """
    kind, spacing = type(scheduler).__name__, scheduler.config.get("timestep_spacing")
    if "sdxs" in name.lower():
        return SamplingDefaults(1, 1.0, "SDXS was distilled to one step without guidance")
    if kind == "LCMScheduler":
        embedded = unet_config.get("time_cond_proj_dim") is not None
        return SamplingDefaults(4, 8.5 if embedded else 1.0, "latent consistency models take four steps")
    if kind == "TCDScheduler":
        return SamplingDefaults(4, 1.0, "TCD models take four steps without guidance")
    if kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler") and spacing == "trailing":
        steps = 1 if pipeline == "StableDiffusionPipeline" else 4
        return SamplingDefaults(
            steps, 1.0, "trailing Euler steps mean a Turbo model, which takes no guidance"
        )
    guidance = 5.0 if pipeline == "StableDiffusionXLPipeline" else 7.5
    return SamplingDefaults(_STEPS, guidance, "common settings of a model that was not distilled")
