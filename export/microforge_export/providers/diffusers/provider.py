"""Folders in diffusers' format as models to export; the library's own pipeline is the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.bundle.inputs import Tokenizer
from microforge.bundle.manifest import Driving, Size, TensorSpec
from microforge.bundle.sampling import LatentSpace, SamplerTable
from microforge.components.networks import component_key, tensor
from microforge.errors import SpecError
from microforge.noise import standard_normal
from microforge_export.components.component import SourceComponent
from microforge_export.providers.diffusers.clip_tokenizers import framed, write_tokenizer
from microforge_export.providers.diffusers.driving import (
    DECODER,
    ENCODER,
    GENERATE,
    STRENGTH,
    TEXT_ENCODERS,
    UNET,
    VARY,
    SamplerFacts,
    stable_diffusion_driving,
)
from microforge_export.providers.diffusers.networks import (
    ClipTextNetwork,
    ImageDecoder,
    ImageEncoder,
    UNetNetwork,
)
from microforge_export.providers.diffusers.noise_levels import noised
from microforge_export.providers.diffusers.probe import probe
from microforge_export.providers.diffusers.prompts import common_prompts
from microforge_export.providers.diffusers.recurrence import MeasuredSampler, fit
from microforge_export.providers.diffusers.sampling_loop import AfterStep, PipelineLoop
from microforge_runtimes import Request
from microforge_runtimes.latent_blending import latent_mask
from microforge_runtimes.sampler import choose_table

#: Inputs of the network that the sampler or an encoder gives; all others are literal numbers.
_BOUND = ("sample", "timestep", "encoder_hidden_states", "text_embeds")


@dataclass(frozen=True)
class DiffusersProvider:
    """A loaded Stable Diffusion pipeline, seen by the exporter.

    Attributes:
        pipeline: of the library, in float32.
        samplers: what was measured of its loop, by step count; the first is the default.
        guidance: scale that it was measured with.
        prompt_list: the user's own prompts for calibration.
        tokenizer_folder: holds the ``tokenizer.json`` files while the model is exported.
    """

    pipeline: Any
    samplers: Mapping[int, MeasuredSampler]
    guidance: float
    prompt_list: tuple[str, ...] = ()
    tokenizer_folder: TemporaryDirectory[str] = field(default_factory=TemporaryDirectory)

    @property
    def tables(self) -> tuple[SamplerTable, ...]:
        """The sampler tables, the default one first."""
        return tuple(item.table for item in self.samplers.values())

    @property
    def downsample(self) -> int:
        """Pixels per latent cell."""
        return int(self.pipeline.vae_scale_factor)

    @cached_property
    def tokenizer_files(self) -> Mapping[str, Path]:
        """``tokenizer.json`` of every text encoder, by its role."""
        pairs = zip(TEXT_ENCODERS, ("tokenizer", "tokenizer_2"), strict=True)
        folder = Path(self.tokenizer_folder.name)
        return {
            role: write_tokenizer(getattr(self.pipeline, name), folder, name)
            for role, name in pairs
            if getattr(self.pipeline, role, None) is not None
        }

    def components(self, sizes: Sequence[Size], tasks: Sequence[str]) -> tuple[SourceComponent, ...]:
        """Text encoders, then per size the denoising network, the decoder and, for tasks with an image, the encoder.

        Raises:
            SpecError: for a size that the network cannot halve often enough.
        """
        networks = list(self._text_encoders())
        for size in sizes:
            self._check_size(size)
            latent, image = (
                tensor("latent", *self.latent_shape(size)),
                tensor("image", 1, 3, size.height, size.width),
            )
            networks.append(self._unet(size, sizes))
            decoder = ImageDecoder(self.pipeline.vae).eval()
            networks.append(
                SourceComponent(
                    component_key(DECODER, size, sizes), DECODER, size, decoder, (latent,), (image,)
                )
            )
            if set(tasks) - {GENERATE}:
                encoder, key = ImageEncoder(self.pipeline.vae).eval(), component_key(ENCODER, size, sizes)
                networks.append(SourceComponent(key, ENCODER, size, encoder, (image,), (latent,)))
        return tuple(networks)

    def _text_encoders(self) -> tuple[SourceComponent, ...]:
        roles = list(self.tokenizer_files)
        found = []
        for index, role in enumerate(roles):
            model = getattr(self.pipeline, role)
            length = int(getattr(self.pipeline, ("tokenizer", "tokenizer_2")[index]).model_max_length)
            network = ClipTextNetwork(model, penultimate=len(roles) == 2, pooled=index == 1, length=length)
            outputs = [tensor("text", 1, length, model.config.hidden_size)]
            if index == 1:
                outputs.append(tensor("pooled", 1, model.config.projection_dim))
            ids = tensor("ids", 1, length, dtype="int64")
            found.append(SourceComponent(role, role, None, network.eval(), (ids,), tuple(outputs)))
        return tuple(found)

    def _unet(self, size: Size, sizes: Sequence[Size]) -> SourceComponent:
        others = self._others(size)
        specs: list[TensorSpec] = [tensor("sample", *self.latent_shape(size)), tensor("timestep", 1)]
        for name, values in others.items():
            spec = tensor(name, 1, *values.shape[1:])
            if name not in _BOUND:
                literal = tuple(float(value) for value in values[0].reshape(-1))
                spec = spec.model_copy(update={"default": literal})
            specs.append(spec)
        added = [name for name in ("text_embeds", "time_ids") if name in others]
        module = UNetNetwork(self.pipeline.unet, [spec.name for spec in specs], added).eval()
        output = tensor("out", *self.latent_shape(size))
        return SourceComponent(component_key(UNET, size, sizes), UNET, size, module, tuple(specs), (output,))

    def _others(self, size: Size) -> Mapping[str, NDArray[np.float32]]:
        """The network's inputs beside latent and time, as the pipeline feeds them at ``size``."""
        steps = next(iter(self.samplers))
        others = fit(probe(self.loop(size, steps)), steps, self.guidance).others
        for name, values in others.items():
            if name not in _BOUND and not all(np.array_equal(row, values[0]) for row in values):
                raise SpecError(
                    f"guidance branches have different values of {name}, which a bundle cannot hold"
                )
        return others

    def latent_shape(self, size: Size) -> tuple[int, int, int, int]:
        """(1, C, h, w) of an image size."""
        channels = int(self.pipeline.unet.config.in_channels)
        return 1, channels, size.height // self.downsample, size.width // self.downsample

    def _check_size(self, size: Size) -> None:
        levels = len(self.pipeline.unet.config.block_out_channels)
        factor = self.downsample * 2 ** (levels - 1)
        if size.height % factor or size.width % factor:
            raise SpecError(
                f"size {size} cannot be halved {levels - 1} times by this model; height and width must be multiples of {factor}"
            )

    def loop(self, size: Size, steps: int, **more: Any) -> PipelineLoop:
        """The pipeline's own loop at ``size``."""
        call = {
            "prompt": "", "height": size.height, "width": size.width, "num_inference_steps": steps,
            "guidance_scale": self.guidance, **more,
        }  # fmt: skip
        return PipelineLoop(self.pipeline, self.latent_shape(size), call)

    @cached_property
    def latent_space(self) -> LatentSpace:
        """Scale and shift of the autoencoder, per channel."""
        config, channels = self.pipeline.vae.config, int(self.pipeline.unet.config.in_channels)
        scaling = float(config.scaling_factor)
        means, deviations = config.get("latents_mean"), config.get("latents_std")
        shift = float(config.get("shift_factor") or 0.0)
        return LatentSpace(
            channels=channels,
            downsample=self.downsample,
            mean=tuple(float(value) for value in means) if means else (shift,) * channels,
            std=tuple(float(value) / scaling for value in deviations)
            if deviations
            else (1.0 / scaling,) * channels,
        )

    def driving(self, tasks: Sequence[str]) -> Driving:
        """See ``Provider``."""
        first = next(iter(self.samplers.values()))
        zeros = bool(self.pipeline.config.get("force_zeros_for_empty_prompt", False))
        facts = SamplerFacts(
            self.tables, first.weights, self.guidance, zeros and "text_encoder_2" in self.tokenizer_files
        )
        return stable_diffusion_driving(
            facts, self.latent_space, self._tokenizers(tuple(tasks)),
            [getattr(self.pipeline, role).config.hidden_size for role in self.tokenizer_files], tasks,
        )  # fmt: skip

    def _tokenizers(self, tasks: tuple[str, ...]) -> dict[str, Tokenizer]:
        names = dict(zip(TEXT_ENCODERS, ("tokenizer", "tokenizer_2"), strict=True))
        return {
            role: framed(getattr(self.pipeline, names[role]), path, tasks)
            for role, path in self.tokenizer_files.items()
        }

    def prompts(self, count: int, seed: int) -> tuple[str, ...]:
        """The user's prompts, or common ones."""
        if not self.prompt_list:
            return common_prompts(count, seed)
        return tuple(self.prompt_list[(seed + index) % len(self.prompt_list)] for index in range(count))

    @torch.no_grad()
    def reference(self, request: Request, size: Size) -> NDArray[np.float32]:
        """The library's pipeline on the runtime's noise; tasks with an image replace its latents after steps."""
        default = STRENGTH if request.task == VARY else None
        table, start = choose_table(
            self.tables, request.steps, default if request.strength is None else request.strength
        )
        shape = self.latent_shape(size)

        def noise(index: int) -> Tensor:
            return torch.from_numpy(standard_normal(request.seed, shape, index * int(np.prod(shape))))

        more: dict[str, Any] = {"prompt": request.prompt or ""}
        if request.negative is not None:
            more["negative_prompt"] = request.negative
        if request.guidance:
            more["guidance_scale"] = next(iter(request.guidance.values()))
        after, latents = self._from_image(request, table, start, noise(0))
        loop = self.loop(size, table.steps, **more)
        final = loop.run(
            None, noise if latents is None else (lambda index: noise(index) if index else latents), after
        )
        if after is not None:
            final = after(final, len(table.rows))
        decoded = ImageDecoder(self.pipeline.vae).eval()(self._denormalized(final)).numpy()
        image: NDArray[np.float32] = decoded
        if request.mask is not None and request.image is not None:
            image = np.where(request.mask > 0, image, request.image)
        return image

    def _from_image(
        self, request: Request, table: SamplerTable, start: int, noise: Tensor
    ) -> tuple[AfterStep | None, Tensor | None]:
        """What stands in place of the latents after each step, and in place of the initial noise."""
        if request.image is None:
            return None, None
        scheduler = self.pipeline.scheduler
        known = self._normalized(ImageEncoder(self.pipeline.vae).eval()(torch.from_numpy(request.image)))
        if request.mask is not None:
            cells = torch.from_numpy(latent_mask(request.mask, self.downsample)) > 0

            def keep(latents: Tensor, evaluations: int) -> Tensor:
                return torch.where(cells, latents, noised(scheduler, known, noise, evaluations))

            return keep, None
        if start == 0:
            scheduler.set_timesteps(table.steps)
            return None, noised(scheduler, known, noise, 0) / scheduler.init_noise_sigma

        def begin(latents: Tensor, evaluations: int) -> Tensor:
            return noised(scheduler, known, noise, start) if evaluations == start else latents

        return begin, None

    def _denormalized(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return latents * std + mean

    def _normalized(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics()
        return (latents - mean) / std

    def _statistics(self) -> tuple[Tensor, Tensor]:
        space = self.latent_space
        return torch.tensor(space.mean).reshape(1, -1, 1, 1), torch.tensor(space.std).reshape(1, -1, 1, 1)
