"""Samples of a model, judged by the oracle: what the stages reward and rewrite learn from.

Every prompt is sampled several times, which separates the quality of a sample from the difficulty of its prompt. Samples
are generated in parts, by all processes, each part a file of its own, so that a killed run continues where it stopped. Only
prompts of the built-in world can be judged, and only compositions that training shows are sampled: held-out ones stay unseen.

Letters: G prompts, K samples of each, C h w latent channels, height and width, L text tokens.
"""

from __future__ import annotations

import hashlib
import shutil
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from microforge.training.caches.encoder import token_ids
from microforge.training.caches.files import read_metadata, write_atomically
from microforge.training.engine.distributed import Processes
from microforge.training.loop_options import LoopSettings
from microforge.training.settings import FeedbackSettings
from microforge.training.stages.flow_network import without_padding

#: Category of scene -> its share of the prompts: samples teach most where about half of them are correct.
CATEGORIES: Mapping[str, float] = types.MappingProxyType(
    {"two": 0.50, "attribute": 0.28, "counting": 0.14, "position": 0.05, "single": 0.03}
)
#: Prompts of a part, and samples that are generated together.
PART, BATCH = 64, 64
#: Distance between the noise seeds of two runs.
SEED_STRIDE = 1_000_003
#: Limit of an advantage, so that a prompt that is nearly always or nearly never correct does not outweigh the others.
MAX_ADVANTAGE = 2.0


@dataclass(frozen=True)
class JudgedSamples:
    """Latents (G, K, C, h, w) float16, token ids of their prompts (G, L), and which samples are correct, (G, K) bool."""

    latents: Tensor
    ids: Tensor
    correct: Tensor

    def informative(self) -> JudgedSamples:
        """The prompts with both correct and incorrect samples: only these have an advantage.

        Raises:
            DataError: when there is none.
        """
        mixed = self.correct.any(1) & ~self.correct.all(1)
        if not bool(mixed.any()):
            raise DataError(
                f"none of {len(self.correct)} prompts has both correct and incorrect samples: "
                "a reward has nothing to teach here"
            )
        return JudgedSamples(self.latents[mixed], self.ids[mixed], self.correct[mixed])


@dataclass(frozen=True)
class SamplingPlan:
    """Which samples are generated: ``settings.samples_per_prompt`` of each prompt, at ``size`` (height, width) in pixels."""

    prompts: Sequence[Prompt]
    settings: FeedbackSettings
    loop: LoopSettings
    size: tuple[int, int]

    def key(self, generator: Checkpoint) -> str:
        """Identifies everything that the samples depend on."""
        texts = "\n".join(prompt.text for prompt in self.prompts)
        digest = hashlib.sha256(texts.encode()).hexdigest()[:16]
        settings = self.settings
        counts = f"{settings.samples_per_prompt} {settings.sampling_steps}"
        return f"{generator.sha256} {digest} {counts} {self.loop.seed} {self.size}"


def advantages(correct: Tensor) -> Tensor:
    """Advantage of each sample (G, K) over the others of its prompt: (r - mean) / deviation, cut at +-2."""
    share = correct.float().mean(1, keepdim=True)
    deviation = (share * (1.0 - share)).sqrt().clamp(min=1e-3)
    return ((correct.float() - share) / deviation).clamp(-MAX_ADVANTAGE, MAX_ADVANTAGE)


def judged_prompts(count: int, seed: int) -> list[Prompt]:
    """``count`` prompts with their facts: half in canonical words, half in those of the training captions."""
    rng = step_rng(seed, StepStream.JUDGED_SAMPLES)
    categories, shares = list(CATEGORIES), list(CATEGORIES.values())
    return [seen_prompt(str(rng.choice(categories, p=shares)), rng) for _ in range(count)]


def load_or_generate(
    path: Path, plan: SamplingPlan, generator: Checkpoint, console: Console, processes: Processes
) -> JudgedSamples:
    """The judged samples at ``path`` when they match the plan and the generator, else new ones.

    Args:
        path: File of the samples.
        plan: What is generated.
        generator: The checkpoint that generates: a few-step student in its own steps, any other checkpoint in
            ``sampling_steps`` guided ones.
        console: Shows progress.
        processes: Share the work; all get the result.
    """
    key = plan.key(generator)
    if read_metadata(path).get("key") == key:
        return _read(path)
    folder = path.with_name(f".{path.name}.parts")
    files = [folder / f"{number:06d}.safetensors" for number in range(-(-len(plan.prompts) // PART))]
    missing = [
        number
        for number in range(processes.rank, len(files), processes.count)
        if read_metadata(files[number]).get("key") != key
    ]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        pipeline = MicroForgePipeline.from_checkpoint(generator).to(plan.loop.device)
        for number in track(
            missing, "generating and judging", console=console, disable=not processes.is_main
        ):
            _write(files[number], _generate_part(pipeline, plan, number), key)
    processes.wait()
    if processes.is_main:
        _write(path, _concatenated([_read(file) for file in files]), key)
        shutil.rmtree(folder)
    processes.wait()
    return _read(path)


@torch.no_grad()
def _generate_part(pipeline: MicroForgePipeline, plan: SamplingPlan, number: int) -> JudgedSamples:
    """Generate the samples of part ``number``, decode them as a user would see them, and judge them."""
    tokenizer, length = pipeline.tokenizer, pipeline.spec.text_encoder.max_length
    assert tokenizer is not None  # ``check_teacher`` has checked it
    loop, each = plan.loop, plan.settings.samples_per_prompt
    sampler = pipeline.spec.sampler
    few_steps = sampler.guidance_distilled
    steps, guidance = (None, None) if few_steps else (plan.settings.sampling_steps, sampler.text_guidance)
    prompts = plan.prompts[number * PART : (number + 1) * PART]
    seed = StepStream.JUDGED_SAMPLES + loop.seed * SEED_STRIDE + number * PART * each
    batches = []
    together = max(1, BATCH // each)
    for start in range(0, len(prompts), together):
        group = prompts[start : start + together]
        ids = token_ids(tokenizer, [prompt.text for prompt in group], "generate", length)  # (G, L)
        rows = without_padding(ids).to(loop.device).repeat_interleave(each, 0)
        with torch.autocast(loop.device_type, torch.bfloat16, enabled=loop.bfloat16):
            z = pipeline.latents(rows, *plan.size, steps, guidance, seed + start * each).float()
            images = to_uint8_images(
                pipeline.vae.decode(pipeline.vae.denormalize(z))
            )  # z is (G * K, C, h, w)
        repeated = [prompt for prompt in group for _ in range(each)]
        pairs = zip(repeated, images, strict=True)
        correct = [judge(prompt, detect(image)).correct for prompt, image in pairs]
        shape = (len(group), each)
        latents = z.half().cpu().reshape(*shape, *z.shape[1:])
        batches.append(JudgedSamples(latents, ids.to(torch.int32), torch.tensor(correct).reshape(shape)))
    return _concatenated(batches)


#: Field -> name of its tensor in the file.
_TENSORS = {"latents": "latents", "ids": "ids", "correct": "right"}


def _concatenated(pieces: Sequence[JudgedSamples]) -> JudgedSamples:
    return JudgedSamples(*(torch.cat([getattr(piece, name) for piece in pieces]) for name in _TENSORS))


def _write(path: Path, samples: JudgedSamples, key: str) -> None:
    tensors = {stored: getattr(samples, name).contiguous() for name, stored in _TENSORS.items()}
    write_atomically(path, tensors, {"key": key})


def _read(path: Path) -> JudgedSamples:
    with safetensors.safe_open(str(path), "pt") as file:
        return JudgedSamples(*(file.get_tensor(stored) for stored in _TENSORS.values()))
