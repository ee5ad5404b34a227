"""Text to image with a bundle: the numpy twin of ``MicroForgePipeline.text2img`` for one image.

Stages load when they are needed and are freed before the next one loads: text encoder, denoiser, decoder.
On a phone only one of them is in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle, load_bundle
from microforge.bundle.manifest import PLAN_INPUTS, Component, Role, Task
from microforge.errors import BundleError
from microforge.noise import check_seed, standard_normal
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS, PromptTokenizer, TokenIds
from microforge_runtimes import sampler as rules
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.allocator import return_freed_memory
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.sampler import AfterStep, Floats, Step, StepCallback


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt: text (1, L, E), mask (1, L), pooled (1, E), and whether words were cut off."""

    text: Floats
    mask: Floats
    pooled: Floats
    truncated: bool = False


@dataclass(frozen=True)
class Result:
    """One image and how it was made.

    ``image`` is (H, W, 3) bytes, ``z`` (1, C, h, w) the final normalised latent, ``seconds`` the time of each
    stage, loading included.
    """

    image: NDArray[np.uint8]
    z: Floats
    prompt: str
    seed: int
    steps: int
    height: int
    width: int
    bundle_id: str
    truncated: bool
    seconds: dict[str, float]
    task: Task = "generate"


#: (z, t) -> the guided velocity, and the plan of the prompt's branch.
Velocity = Callable[[Floats, float], tuple[Floats, Floats | None]]


class Generator:
    """Draws images with one bundle, one engine and one size; usable as a context manager."""

    def __init__(
        self,
        bundle: Bundle | str | Path,
        target: str = "onnx",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
        keep_loaded: bool = False,
    ) -> None:
        """Choose the components; loads none of them yet.

        Args:
            target: engine whose files to use.
            size: (height, width) in pixels; may be None when the bundle has one size.
            threads: the engine may use for one operator; its own choice when None.
            keep_loaded: hold the stages in memory between images instead of freeing each after its use.

        Raises:
            BundleError: when the bundle cannot be opened, or lacks the target, the size, the task
                ``generate`` or a component of it.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.target, self.threads, self.keep_loaded = target, threads, keep_loaded
        self.bundle.target(target)
        roles = self._roles()
        self.size = self.bundle.size(size)
        self._keys: dict[Role, str] = {"text_encoder": self.bundle.component("text_encoder")[0]}
        for role in roles:
            self._keys[role] = self.bundle.component(role, self.size)[0]
        self._sessions: dict[Role, Session] = {}
        self._tokenizer: PromptTokenizer | None = None

    def _roles(self) -> tuple[Role, ...]:
        """The networks of one size that this class needs; refuses a bundle that lacks its task."""
        check_task(self.bundle, "generate")
        return "denoiser", "vae_decoder"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free every stage that is still loaded."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    @property
    def max_length(self) -> int:
        """L: tokens of an encoded prompt."""
        return self.bundle.manifest.tokenizer.max_length

    def tokens(self, prompt: str, task: Task = "generate") -> TokenIds:
        """Token ids of ``prompt``; loads only the tokenizer.

        Raises:
            PromptError: for an empty prompt.
        """
        return self._prompt_tokenizer().encode(prompt, task, self.max_length)

    def empty_tokens(self, task: Task = "generate") -> TokenIds:
        """Token ids of the empty prompt, which guidance steers away from."""
        return self._prompt_tokenizer().encode_empty(task, self.max_length)

    def encode(self, *tokens: TokenIds) -> tuple[Conditioning, ...]:
        """Run the text encoder on each of ``tokens``, with one load."""
        with self._stage("text_encoder") as (session, component):
            return tuple(_encode(session, component, item) for item in tokens)

    def noise(self, seed: int) -> Floats:
        """The initial latent (1, C, h, w) of ``seed``."""
        return standard_normal(seed, (1, *self.size.latent_shape))

    def sample_latent(
        self,
        conditional: Conditioning,
        empty: Conditioning | None,
        noise: Floats,
        steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Floats:
        """Integrate the velocity from noise to the final normalised latent (1, C, h, w).

        Args:
            empty: the encoded empty prompt; None is allowed when the guidance scale is 1.
            noise: (1, C, h, w) float32.
            callback: called after every step.

        Raises:
            BundleError: for a step count that the bundle does not allow.
        """
        sampler = self.bundle.manifest.sampler
        grid, scale = rules.timesteps(sampler, steps), rules.text_scale(sampler)
        if scale != 1.0 and empty is None:
            raise ValueError(f"the guidance scale is {scale}: the encoded empty prompt is needed")
        with self._stage("denoiser") as (session, component):
            branch = Branch(session, component, conditional)
            steering = None if empty is None or scale == 1.0 else Branch(session, component, empty)

            def velocity(z: Floats, t: float) -> tuple[Floats, Floats | None]:
                found = branch.velocity(z, t)
                if steering is not None:
                    found = rules.guided_velocity(found, steering.velocity(z, t), scale)
                return found, branch.plan

            return integrate(velocity, noise, grid, callback)

    def decode(self, z: Floats) -> Floats:
        """Image (1, 3, H, W) in [0, 1] of a normalised latent (1, C, h, w)."""
        latent = rules.denormalize(z, self.bundle.manifest.latent)
        with self._stage("vae_decoder") as (session, _):
            return session.run({"latent": latent})["image"]

    def check(self, prompt: str, seed: int = 0, steps: int | None = None) -> TokenIds:
        """Everything that ``generate`` could refuse, without loading an engine: the prompt's token ids.

        Raises:
            PromptError: for an empty prompt. SpecError: for a seed outside 64 bits.
            BundleError: for a step count that the bundle does not allow, or a damaged file.
        """
        check_seed(seed)
        rules.timesteps(self.bundle.manifest.sampler, steps)
        tokens = self.tokens(prompt)
        for key in self._keys.values():
            self.bundle.file(self.target, key)
        return tokens

    def generate(
        self, prompt: str, seed: int = 0, steps: int | None = None, callback: StepCallback | None = None
    ) -> Result:
        """Draw one image; raises as ``check`` does, before an engine is loaded."""
        tokens = [self.check(prompt, seed, steps)]
        sampler = self.bundle.manifest.sampler
        count = len(rules.timesteps(sampler, steps)) - 1
        if rules.text_scale(sampler) != 1.0:
            tokens.append(self.empty_tokens())
        clock = [time.perf_counter()]
        conditional, *rest = self.encode(*tokens)
        clock.append(time.perf_counter())
        z = self.sample_latent(conditional, rest[0] if rest else None, self.noise(seed), steps, callback)
        clock.append(time.perf_counter())
        image = rules.to_pixels(self.decode(z))
        clock.append(time.perf_counter())
        names = ("text_encoder", "denoiser", "vae_decoder")
        seconds = {name: clock[i + 1] - clock[i] for i, name in enumerate(names)}
        return Result(
            image,
            z,
            prompt,
            seed,
            count,
            self.size.height,
            self.size.width,
            self.bundle.id,
            tokens[0].truncated,
            seconds,
        )

    def _prompt_tokenizer(self) -> PromptTokenizer:
        if self._tokenizer is None:
            entry = self.bundle.manifest.tokenizer
            framed = (entry.pad, entry.bos, entry.eos) == (PAD, BOS, EOS)
            if not framed or any(TASK_IDS[task] != index for task, index in entry.task_prefixes.items()):
                raise BundleError(
                    f"{self.bundle.path}: its tokenizer frames prompts in a way this version cannot"
                )
            self._tokenizer = PromptTokenizer.load(self.bundle.tokenizer_file())
        return self._tokenizer

    @contextmanager
    def _stage(self, role: Role) -> Iterator[tuple[Session, Component]]:
        """The loaded session of ``role``, freed at the end of the block unless stages are kept."""
        key = self._keys[role]
        if role not in self._sessions:
            self._sessions[role] = open_session(self.bundle, self.target, key, self.threads)
            return_freed_memory()  # an engine's copies of the weights while it loaded
        try:
            yield self._sessions[role], self.bundle.manifest.components[key]
        finally:
            if not self.keep_loaded:
                self._sessions.pop(role).close()
                return_freed_memory()


def integrate(
    velocity: Velocity, z: Floats, grid: Sequence[float], callback: StepCallback | None = None,
    after_step: AfterStep | None = None,
) -> Floats:  # fmt: skip
    """Euler steps from ``z`` along ``grid``; ``after_step(z, t_next)`` may replace the latent after each."""
    for index in range(len(grid) - 1):
        t, t_next = grid[index], grid[index + 1]
        found, plan = velocity(z, t)
        z = rules.euler_step(z, found, t, t_next)
        if after_step is not None:
            z = after_step(z, t_next)
        if callback is not None:
            callback(Step(index + 1, len(grid) - 1, t, t_next, z, found, plan))
    return z


class Branch:
    """One guidance branch: a prompt, perhaps a source, and a plan state of its own that goes from step to step."""

    def __init__(
        self, session: Session, component: Component, prompt: Conditioning, source: Floats | None = None
    ) -> None:
        """``source``: (1, C, h, w) normalised, for a denoiser that takes one."""
        self._session, self._takes = session, {spec.name for spec in component.inputs}
        self._fixed: dict[str, Array] = {"text": prompt.text, "mask": prompt.mask, "pooled": prompt.pooled}
        if source is not None:
            self._fixed["source"] = source
        spec = component.input("plan")
        self.plan: Floats | None = None
        if spec is not None:
            self._fixed["plan"] = np.zeros(spec.shape, np.float32)
            self._fixed["has_plan"] = np.zeros(1, np.float32)

    def velocity(self, z: Floats, t: float) -> Floats:
        values = {**self._fixed, "z": z, "t": np.full(1, t, np.float32)}
        outputs = self._session.run({name: value for name, value in values.items() if name in self._takes})
        if self._takes >= PLAN_INPUTS:
            self.plan = self._fixed["plan"] = outputs["next_plan"]
            self._fixed["has_plan"] = np.ones(1, np.float32)
        return outputs["velocity"]


def _encode(session: Session, component: Component, tokens: TokenIds) -> Conditioning:
    inputs: dict[str, Array] = {"ids": tokens.ids[None], "mask": tokens.mask[None]}
    outputs = session.run({spec.name: inputs[spec.name] for spec in component.inputs})
    return Conditioning(outputs["text"], tokens.mask[None], outputs["pooled"], tokens.truncated)


def check_task(bundle: Bundle, task: Task) -> None:
    """Refuse a task that the bundle cannot do.

    Raises:
        BundleError: lists the tasks that it can.
    """
    if task not in bundle.manifest.tasks:
        raise BundleError(f"{bundle.path} cannot {task}; its tasks: {', '.join(bundle.manifest.tasks)}")
