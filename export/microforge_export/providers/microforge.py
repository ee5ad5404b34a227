"""MicroForge checkpoints as models to export; the library's own pipeline is the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.bundle.manifest import Driving, Size
from microforge.checkpoint import SHIPPED_STUDENT, Checkpoint, read_checkpoint
from microforge.components.networks import TOKENIZER, about, all_tasks, pipeline_driving, pipeline_networks
from microforge.errors import CheckpointError
from microforge.pipeline import MicroForgePipeline
from microforge.tokenizer import PromptTokenizer
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_runtimes import Request

#: Of the weights that ship with the package; those of a user's checkpoint are the user's.
SHIPPED_LICENCE = "MIT"
TEST_REQUESTS = (
    SampleRequest("a red circle", 0, "generate"),
    SampleRequest("a blue square on a white background", 1, "generate"),
    SampleRequest("a green triangle on the left", 2, "generate"),
    SampleRequest("make the circle green", 3, "edit"),
    SampleRequest("a red circle and a blue square", 4, "inpaint"),
    SampleRequest("", 5, "super-resolve"),
    SampleRequest("a red circle and a blue square", 6, "vary"),
)
#: What the networks do, by role, and what their tensors contain, by name: for the files' own descriptions.
TEXTS: Mapping[str, str] = {
    "text_encoder": "encodes a tokenized prompt",
    "denoiser": "predicts the velocity of a noisy latent, conditioned on a prompt",
    "denoiser_edit": "predicts the velocity of a noisy latent, conditioned on a prompt and a source image",
    "vae_decoder": "decodes a latent to an image",
    "vae_encoder": "encodes an image to a latent",
    "ids": "token ids of the prompt, padded",
    "mask": "1 for tokens of the prompt, 0 for padding",
    "text": "features of the prompt's tokens",
    "pooled": "features of the whole prompt",
    "z": "noisy latent, normalised per channel",
    "t": "time, from 1 (noise) to 0 (image)",
    "plan": "plan state of the previous evaluation; zeros in the first one",
    "has_plan": "1 if plan is given, 0 in the first evaluation",
    "source": "latent of the source image, normalised per channel",
    "velocity": "velocity of the latent: a step to the time t_next adds (t_next - t) * velocity",
    "next_plan": "plan state for the next evaluation",
    "latent": "latent of the autoencoder",
    "image": "RGB image with values from 0 to 1",
}


@dataclass(frozen=True)
class MicroForgeProvider:
    """A loaded pipeline, seen by the exporter; ``tokenizer`` is its ``tokenizer.json``."""

    pipeline: MicroForgePipeline
    tokenizer: Path

    def components(self, sizes: Sequence[Size], tasks: Sequence[str]) -> tuple[SourceComponent, ...]:
        """Text encoder, then per size the denoisers that ``tasks`` need, decoder and encoder.

        Raises:
            SpecError: for a size that is not a multiple of the autoencoder's factor.
        """
        return tuple(
            SourceComponent(
                item.key, item.role, item.size, item.module, item.inputs, item.outputs, item.weights_of
            )
            for item in pipeline_networks(self.pipeline, sizes, tasks)
        )

    def driving(self, tasks: Sequence[str]) -> Driving:
        """See ``Provider``."""
        return pipeline_driving(self.pipeline.spec, self.tokenizer, tasks)

    def prompts(self, count: int, seed: int) -> tuple[str, ...]:
        """Captions of the built-in data's grammar."""
        from microforge.data.world.captions import evaluation_prompts

        return tuple(item.text for item in evaluation_prompts(count, seed))

    def reference(self, request: Request, size: Size) -> NDArray[np.float32]:
        """See ``Provider``."""
        pipeline, prompt, seed = self.pipeline, request.prompt, request.seed
        if request.task == "generate":
            image = pipeline.text2img(prompt or "", size.height, size.width, seed=seed)
            return cast("NDArray[np.float32]", image.numpy())
        source = _tensor(request.image)
        calls: Mapping[str, Callable[[], Tensor]] = {
            "edit": lambda: pipeline.edit(source, prompt, seed=seed),
            "inpaint": lambda: pipeline.inpaint(source, _tensor(request.mask), prompt, seed=seed),
            "super-resolve": lambda: pipeline.super_resolve(
                source, size.height // source.shape[2], prompt, seed=seed
            ),
            "vary": lambda: pipeline.vary(source, prompt, seed=seed),
        }
        return cast("NDArray[np.float32]", calls[str(request.task)]().numpy())


def _tensor(values: NDArray[np.float32] | None) -> Tensor:
    assert values is not None
    return torch.from_numpy(values)


def read_model(folder: Path | None = None) -> SourceModel:
    """The checkpoint in ``folder``, or the student that ships with the package, ready to export.

    Raises:
        CheckpointError: when it is missing, damaged, not trained far enough, or has no fitting tokenizer.
    """
    folder = SHIPPED_STUDENT if folder is None else folder
    checkpoint = read_checkpoint(folder)
    if checkpoint.tokenizer is None:
        raise CheckpointError(f"{folder}: the checkpoint has no tokenizer.json, which a bundle needs")
    spec = checkpoint.spec
    tokenizer = PromptTokenizer.load(checkpoint.tokenizer)
    if tokenizer.vocab_size > spec.text_encoder.vocab_size:
        raise CheckpointError(
            f"{checkpoint.tokenizer} has {tokenizer.vocab_size} tokens, the text encoder {spec.text_encoder.vocab_size}"
        )
    return SourceModel(
        provider=MicroForgeProvider(_load(checkpoint, tokenizer), checkpoint.tokenizer),
        about=about(spec, SHIPPED_LICENCE if folder == SHIPPED_STUDENT else ""),
        native_size=Size(height=spec.native_size[0], width=spec.native_size[1]),
        tasks=all_tasks(spec),
        files={TOKENIZER: checkpoint.tokenizer},
        requests=TEST_REQUESTS,
        texts=TEXTS,
        checkpoint_sha256=checkpoint.sha256,
        path=folder,
    )


def _load(checkpoint: Checkpoint, tokenizer: PromptTokenizer) -> MicroForgePipeline:
    pipeline = MicroForgePipeline.from_spec(checkpoint.spec, tokenizer)
    for name, module in pipeline.modules_by_name().items():
        checkpoint.load_into(name, module)
    return pipeline.requires_grad_(False)
