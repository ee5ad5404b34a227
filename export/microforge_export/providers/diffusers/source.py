"""Opens a folder in diffusers' format as a model to export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from microforge.bundle.manifest import ModelEntry, Size
from microforge.errors import SpecError
from microforge_export.components.component import SampleRequest, SourceModel
from microforge_export.providers.diffusers.driving import GENERATE, INPAINT, VARY, available_tasks
from microforge_export.providers.diffusers.families import SamplingDefaults, sampling_defaults
from microforge_export.providers.diffusers.folder import ModelFolder, read_folder
from microforge_export.providers.diffusers.loading import Lora, load_pipeline
from microforge_export.providers.diffusers.provider import DiffusersProvider
from microforge_export.providers.diffusers.recurrence import MeasuredSampler
from microforge_export.providers.diffusers.replay import measured_sampler

_REQUESTS = (
    SampleRequest("a photograph of an astronaut riding a horse", 0, GENERATE),
    SampleRequest("a red apple on a wooden table", 1, GENERATE),
    SampleRequest("an oil painting of a lighthouse", 2, VARY),
    SampleRequest("a bowl of fruit", 3, INPAINT),
)
#: What the networks do, by role, and what their tensors contain, by name.
_TEXTS = {
    "text_encoder": "encodes a tokenized prompt",
    "text_encoder_2": "encodes a tokenized prompt, and gives features of the whole prompt",
    "unet": "predicts what the sampler table takes, conditioned on a prompt",
    "vae_decoder": "decodes a latent to an image",
    "vae_encoder": "encodes an image to a latent",
    "ids": "token ids of the prompt, padded",
    "text": "features of the prompt's tokens",
    "pooled": "features of the whole prompt",
    "sample": "noisy latent, scaled as the sampler table says",
    "timestep": "time of the evaluation, as in the sampler table",
    "out": "the network's prediction, which the sampler table takes",
    "latent": "latent of the autoencoder",
    "image": "RGB image with values from 0 to 1",
}
#: Samples that the preview is fitted to; a large model takes minutes for each.
_PREVIEW_SAMPLES = 4


@dataclass(frozen=True)
class DiffusersOptions:
    """What a user can choose of a diffusers model; None and empty are the model's own.

    Attributes:
        steps: step counts of the bundle, the default first.
        guidance: default guidance scale; 1 is none.
        scheduler: class of the scheduler.
        vae: folder of another autoencoder.
        loras: folded into the weights.
        prompts: to calibrate with.
    """

    steps: tuple[int, ...] = ()
    guidance: float | None = None
    scheduler: str | None = None
    vae: Path | None = None
    loras: tuple[Lora, ...] = ()
    prompts: tuple[str, ...] = ()


def read_model(path: Path, options: DiffusersOptions = DiffusersOptions()) -> SourceModel:
    """The model in the folder ``path``, ready to export.

    Raises:
        CheckpointError: when something is missing or damaged.
        SpecError: for a model or a sampler that cannot be exported.
    """
    folder = read_folder(path)
    pipeline = load_pipeline(folder, options.scheduler, options.vae, options.loras)
    _check_unet(path, pipeline)
    name = path.resolve().name
    defaults = sampling_defaults(folder.pipeline, pipeline.scheduler, pipeline.unet.config, name)
    steps = options.steps or (defaults.steps,)
    guidance = defaults.guidance if options.guidance is None else options.guidance
    size = native_size(pipeline)
    provider = _measured(pipeline, size, steps, guidance, options.prompts)
    return SourceModel(
        provider=provider,
        about=_about(name, folder, pipeline),
        native_size=size,
        tasks=available_tasks(provider.tables),
        files={entry.name: entry for entry in provider.tokenizer_files.values()},
        requests=_REQUESTS,
        checkpoint_sha256=folder.sha256(),
        path=path,
        texts=_TEXTS,
        preview_samples=_PREVIEW_SAMPLES,
        remarks=_remarks(folder, pipeline, steps, guidance, defaults, options),
    )


def native_size(pipeline: Any) -> Size:
    """The size that the model was trained at."""
    side = pipeline.unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else tuple(side)
    return Size(height=height * pipeline.vae_scale_factor, width=width * pipeline.vae_scale_factor)


def _measured(
    pipeline: Any, size: Size, steps: Sequence[int], guidance: float, prompts: tuple[str, ...]
) -> DiffusersProvider:
    unmeasured = DiffusersProvider(pipeline, {}, guidance)
    samplers: dict[int, MeasuredSampler] = {
        count: measured_sampler(unmeasured.loop(size, count), count, guidance) for count in steps
    }
    return DiffusersProvider(pipeline, samplers, guidance, prompts)


def _check_unet(path: Path, pipeline: Any) -> None:
    channels, latent = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
    if channels != latent:
        raise SpecError(
            f"{path}: the network takes {channels} channels, the autoencoder has {latent}; models with an image or a mask as an "
            "input of their own (inpainting, editing) cannot be exported, use their base model"
        )
    kind = pipeline.unet.config.get("addition_embed_type")
    if kind not in (None, "text_time"):
        raise SpecError(
            f"{path}: the network needs an extra input of kind {kind!r}, which cannot be exported"
        )


def _about(name: str, folder: ModelFolder, pipeline: Any) -> ModelEntry:
    config: dict[str, JsonValue] = {
        key: value
        for key, value in pipeline.unet.config.items()
        if isinstance(value, str | int | float | bool) and not key.startswith("_")
    }
    return ModelEntry(
        name=name, description=f"{folder.pipeline} exported from a folder in diffusers' format", languages=("en",),
        config={"pipeline": folder.pipeline, "scheduler": type(pipeline.scheduler).__name__, "unet": config},
    )  # fmt: skip


def _remarks(
    folder: ModelFolder, pipeline: Any, steps: Sequence[int], guidance: float, defaults: SamplingDefaults,
    options: DiffusersOptions,
) -> tuple[str, ...]:  # fmt: skip
    counts = " and ".join(map(str, steps))
    chosen = "as asked" if options.steps and options.guidance is not None else defaults.reason
    settings = (
        f"{folder.pipeline} with {type(pipeline.scheduler).__name__}: {counts} steps, guidance {guidance:g}"
    )
    lines = [f"{settings} ({chosen}; change with --steps, --guidance, --scheduler)"]
    lines += [f"left out: {part}, which does not change an image from a prompt" for part in folder.ignored]
    return tuple(lines)
