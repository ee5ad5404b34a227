"""A model's own drawings, judged by the oracle: what the stages reward and rewrite learn from.

Each caption is drawn several times, so that what is right about a drawing can be told from what its caption makes easy.
Drawings are made in parts, by all processes, each a file of its own: a killed run goes on where it stopped. Only captions
of the built-in world can be judged, and only compositions that training shows are drawn: the held-out ones stay unseen.

Letters: G captions, K drawings of each, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import shutil
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from microforge.checkpoint import Checkpoint
from microforge.data.order import step_rng
from microforge.data.world.caption_reader import seen_prompt
from microforge.data.world.captions import Prompt
from microforge.errors import DataError
from microforge.evaluation.generation import to_uint8_images
from microforge.evaluation.oracle.detector import detect
from microforge.evaluation.oracle.verdict import judge
from microforge.pipeline import MicroForgePipeline
from microforge.streams import StepStream
from microforge.tokenizer import PromptTokenizer
from microforge.training.caches.latents import metadata, save_whole
from microforge.training.engine.distributed import Processes
from microforge.training.settings import JudgedSettings, LoopSettings
from microforge.training.stages.flow import without_padding

#: Kind of scene -> its share of the captions: drawings teach most where about half of them are right.
KINDS: Mapping[str, float] = types.MappingProxyType(
    {"two": 0.50, "attribute": 0.28, "counting": 0.14, "position": 0.05, "single": 0.03}
)
#: Captions of a part, and the drawings that are made at once.
PART, AT_ONCE = 64, 64
#: A caption that is nearly always right, or nearly always wrong, must not outweigh the others.
MOST_ADVANTAGE = 2.0


@dataclass(frozen=True)
class Judged:
    """Latents (G, K, C, h, w) float16, their captions' token ids (G, L), and which are right, (G, K) bool."""

    latents: Tensor
    ids: Tensor
    right: Tensor

    def telling(self) -> Judged:
        """The captions some of whose drawings are right and some wrong: the others say nothing.

        Raises:
            DataError: when there is none.
        """
        some = self.right.any(1) & ~self.right.all(1)
        if not bool(some.any()):
            raise DataError(
                f"of {len(self.right)} captions not one was drawn both rightly and wrongly: a reward has nothing to teach here"
            )
        return Judged(self.latents[some], self.ids[some], self.right[some])


def advantages(right: Tensor) -> Tensor:
    """How much better each drawing (G, K) is than its caption's others: (r - mean) / deviation, cut at +-2."""
    share = right.float().mean(1, keepdim=True)
    deviation = (share * (1.0 - share)).sqrt().clamp(min=1e-3)
    return ((right.float() - share) / deviation).clamp(-MOST_ADVANTAGE, MOST_ADVANTAGE)


def judged_prompts(count: int, seed: int) -> list[Prompt]:
    """``count`` captions with their facts: half as prompts are typed, half with all that training's captions say."""
    rng = step_rng(seed, StepStream.JUDGED_SAMPLES)
    kinds, shares = list(KINDS), list(KINDS.values())
    return [seen_prompt(str(rng.choice(kinds, p=shares)), rng) for _ in range(count)]


def load_or_draw(
    path: Path, prompts: Sequence[Prompt], drawer: Checkpoint, settings: JudgedSettings, loop: LoopSettings,
    size: tuple[int, int], console: Console, processes: Processes,
) -> Judged:  # fmt: skip
    """The judged drawings of ``prompts`` at ``path`` when they are of ``drawer`` and these settings, else new ones.

    Args:
        prompts: captions with their facts; each is drawn ``settings.group`` times.
        drawer: the checkpoint that draws: a few-step student in its own steps, another in ``settings.drawing_steps``
            guided ones.
        size: (height, width) in pixels.
    """
    words = hashlib.sha256("\n".join(prompt.text for prompt in prompts).encode()).hexdigest()[:16]
    key = f"{drawer.sha256} {words} {settings.group} {settings.drawing_steps} {loop.seed} {size}"
    if metadata(path).get("key") == key:
        return _read(path)
    parts = path.with_name(f".{path.name}.parts")
    files = [parts / f"{number:06d}.safetensors" for number in range(-(-len(prompts) // PART))]
    mine = [
        number
        for number in range(processes.rank, len(files), processes.count)
        if metadata(files[number]).get("key") != key
    ]
    if mine:
        parts.mkdir(parents=True, exist_ok=True)
        pipeline = MicroForgePipeline.from_checkpoint(drawer).to(loop.device)
        for number in track(mine, "drawing and judging", console=console, disable=not processes.is_main):
            here = prompts[number * PART : (number + 1) * PART]
            seed = StepStream.JUDGED_SAMPLES + loop.seed * 1_000_003 + number * PART * settings.group
            _write(files[number], _drawn(pipeline, here, settings, loop, size, seed), key)
    processes.wait()
    if processes.is_main:
        _write(path, _joined([_read(file) for file in files]), key)
        shutil.rmtree(parts)
    processes.wait()
    return _read(path)


@torch.no_grad()
def _drawn(
    pipeline: MicroForgePipeline, prompts: Sequence[Prompt], settings: JudgedSettings, loop: LoopSettings,
    size: tuple[int, int], seed: int,
) -> Judged:  # fmt: skip
    """Draw every prompt ``settings.group`` times, decode as a user would see it, and judge."""
    tokenizer, length = pipeline.tokenizer, pipeline.spec.text_encoder.max_length
    assert tokenizer is not None  # `check_teacher` and `stand_on` have seen to it
    sampler = pipeline.spec.sampler
    few = sampler.guidance_distilled
    steps, guidance = (None, None) if few else (settings.drawing_steps, sampler.text_guidance)
    found = []
    together = max(1, AT_ONCE // settings.group)
    for start in range(0, len(prompts), together):
        some = prompts[start : start + together]
        ids = prompt_ids(tokenizer, [prompt.text for prompt in some], length)  # (G, L)
        rows = without_padding(ids).to(loop.device).repeat_interleave(settings.group, 0)
        first = seed + start * settings.group
        with torch.autocast(loop.device.split(":")[0], torch.bfloat16, enabled=loop.bfloat16):
            z = pipeline.latents(rows, *size, steps, guidance, first).float()  # (G * K, C, h, w)
            images = to_uint8_images(pipeline.vae.decode(pipeline.vae.denormalize(z)))
        asked = [prompt for prompt in some for _ in range(settings.group)]
        right = [judge(prompt, detect(image)).correct for prompt, image in zip(asked, images, strict=True)]
        shape = (len(some), settings.group)
        latents = z.half().cpu().reshape(*shape, *z.shape[1:])
        found.append(Judged(latents, ids.to(torch.int32), torch.tensor(right).reshape(shape)))
    return _joined(found)


def prompt_ids(tokenizer: PromptTokenizer, texts: Sequence[str], length: int) -> Tensor:
    """Token ids (G, L) int64 of ``texts``, padded to ``length``."""
    return torch.from_numpy(np.stack([tokenizer.encode(text, "generate", length).ids for text in texts]))


def _joined(pieces: Sequence[Judged]) -> Judged:
    names = ("latents", "ids", "right")
    return Judged(*(torch.cat([getattr(one, name) for one in pieces]) for name in names))


def _write(path: Path, judged: Judged, key: str) -> None:
    tensors = {"latents": judged.latents, "ids": judged.ids, "right": judged.right}
    save_whole(path, {name: value.contiguous() for name, value in tensors.items()}, {"key": key})


def _read(path: Path) -> Judged:
    with safetensors.safe_open(str(path), "pt") as file:
        return Judged(*(file.get_tensor(name) for name in ("latents", "ids", "right")))
