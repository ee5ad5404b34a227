"""Samples made with a bundle: every task of its manifest, on one engine at one image size.

Stages load when they are needed and are freed before the next one loads: prompt encoders, image encoder, network,
decoder. On a phone only one of them is in memory at a time.

A generator may be used by several threads at once. What belongs to one image is passed from call to call; the stages are
shared, behind a lock (see ``Generator.stage``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from microforge.bundle.files import Bundle, load_bundle
from microforge.bundle.manifest import Component
from microforge.noise import standard_normal
from microforge.spec import SizeInput
from microforge_runtimes import latent_blending, sampler
from microforge_runtimes.arrays import Array
from microforge_runtimes.conditions import Branch, Context, bound_inputs
from microforge_runtimes.engines.allocator import return_freed_memory
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.request import ActiveBranch, Checked, Encodings, PromptText, Request, check_request
from microforge_runtimes.sampler import Floats, Pixels, StepCallback
from microforge_runtimes.tokenization import FramedTokenizer

__all__ = ["Generator", "Opener", "Request", "Result"]

#: (bundle, target, component key, threads) -> a loaded session; ``engines.registry.open_session`` is one.
Opener = Callable[[Bundle, str, str, int | None], Session]
#: Seconds of each stage of one image, by role.
Seconds = MutableMapping[str, float]


@dataclass(frozen=True)
class Result:
    """One image and how it was made.

    ``image`` is uint8 (H, W, 3), ``float_image`` (1, 3, H, W) the same before rounding, ``latent`` (1, C, h, w) the
    final normalized latent, ``steps`` the count that was chosen, ``seconds`` the time of each stage by role, loading
    included. ``alpha`` is uint8 (H, W), how much of each pixel objects cover, where the decoder gives it.
    """

    image: Pixels
    float_image: Floats
    latent: Floats
    task: str
    prompt: str
    seed: int
    steps: int
    height: int
    width: int
    bundle_id: str
    truncated: bool
    seconds: Mapping[str, float] = field(default_factory=dict)
    negative: str | None = None
    strength: float | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)
    alpha: Pixels | None = None


class Generator:
    """Makes images with one bundle, one engine and one size; usable as a context manager, and by several threads at once.

    With ``keep_loaded`` the threads evaluate the networks at the same time, where the engine can; without it they take
    turns, stage by stage, so that one stage is in memory at a time however many threads there are.
    """

    def __init__(
        self, bundle: Bundle | str | Path, target: str = "onnx", size: SizeInput | None = None,
        threads: int | None = None, keep_loaded: bool = False, opener: Opener | None = None,
    ) -> None:  # fmt: skip
        """Choose the components; loads none of them yet.

        Args:
            bundle: an opened bundle, or the path of one.
            target: engine whose files to use.
            size: in pixels: 256, "256x384" or (256, 384), height first; may be None when the bundle has one size.
            threads: the engine may use for one operator; its own choice when None.
            keep_loaded: hold the stages in memory between images instead of freeing each after its use.
            opener: loads a component in place of ``open_session``; the bundle then needs no target.

        Raises:
            BundleError: when the bundle cannot be opened, or lacks the target or the size.
            SpecError: for a size that is none.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.manifest = self.bundle.manifest
        self.target, self.threads, self.keep_loaded, self._opener = target, threads, keep_loaded, opener
        if opener is None:
            self.bundle.target(target)
        self.size = self.bundle.size(size)
        self._sessions: dict[str, Session] = {}
        self._tokenizers: dict[str, FramedTokenizer] = {}
        self._lock = threading.RLock()  # of the sessions

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free every stage that is still loaded; no other thread may be making an image."""
        with self._lock:
            while self._sessions:
                self._sessions.popitem()[1].close()

    def generate(
        self, prompt: str, seed: int = 0, steps: int | None = None, callback: StepCallback | None = None
    ) -> Result:
        """An image of the bundle's default task; raises as ``check``."""
        return self.run(Request(prompt=prompt, seed=seed, steps=steps), callback)

    def check(self, request: Request) -> Checked:
        """Everything that ``run`` could refuse, without loading an engine.

        Raises:
            PromptError: for a missing or empty prompt.
            SpecError: for a seed, image, mask, strength, guidance scale or parameter that is not allowed.
            BundleError: for a task or a step count that the bundle does not have, or a damaged file.
        """
        checked = check_request(self.bundle, self.size, request, self.tokenizer)
        if self._opener is None:
            for stage in self.manifest.stages(checked.task):
                self.bundle.file(self.target, self.component_key(stage.role))
        return checked

    def run(self, request: Request, callback: StepCallback | None = None) -> Result:
        """Make one image; raises as ``check`` does, before an engine is loaded.

        Raises:
            GenerationError: when a component gives NaN or infinity; names it.
        """
        checked = self.check(request)
        seconds: dict[str, float] = {}
        encodings = self.encode(checked, seconds)
        latent = self.sample(checked, encodings, callback, seconds)
        image, alpha = self.decode_with_alpha(latent, seconds)
        if checked.mask is not None and checked.image is not None:
            image = latent_blending.composited(image, checked.image, checked.mask)
        return Result(
            sampler.to_pixels(image), image, latent, checked.task, request.prompt or "", request.seed,
            checked.table.steps, self.size.height, self.size.width, self.bundle.id, checked.truncated,
            seconds, request.negative, checked.strength, checked.guidance,
            None if alpha is None else sampler.to_pixels(alpha)[..., 0],
        )  # fmt: skip

    @property
    def max_length(self) -> int:
        """L: ids of an encoded prompt, of the shortest tokenizer; 0 without one."""
        return min((entry.length for entry in self.manifest.tokenizers.values()), default=0)

    def tokenizer(self, name: str) -> FramedTokenizer:
        """A tokenizer of the bundle; its file is read once."""
        if name not in self._tokenizers:
            entry = self.manifest.tokenizers[name]
            self._tokenizers.setdefault(name, FramedTokenizer(entry, self.bundle.checked(entry.file)))
        return self._tokenizers[name]

    def noise(self, seed: int, index: int = 0) -> Floats:
        """The ``index``-th noise (1, C, h, w) of ``seed``; 0 is the initial one."""
        shape = (1, *self.size.latent_shape)
        return standard_normal(seed, shape, index * int(np.prod(shape)))

    def encode(self, checked: Checked, seconds: Seconds | None = None) -> Encodings:
        """Run every encoder that the branches read, each loaded once, and the image's encoder where its latent is needed.

        ``seconds`` receives the time of every stage, here and below.
        """
        outputs: dict[tuple[str, PromptText | None], Mapping[str, Array]] = {}
        for name, prompts in checked.prompt_encoders.items():
            with self.stage(self.manifest.encoders[name].role, seconds) as session:
                for prompt in prompts:
                    context = Context(tokens=checked.tokens[prompt], parameters=checked.parameters)
                    outputs[name, prompt] = self._encoded(session, name, context)
        known = None
        for name, use in checked.image_encoders.items():
            latent = self.manifest.encoders[name].latent
            with self.stage(self.manifest.encoders[name].role, seconds) as session:
                if use.shown:
                    outputs[name, None] = self._encoded(session, name, Context(image=checked.shown))
                if use.known and latent is not None:
                    same = use.shown and checked.shown is checked.image
                    whole = None if same else self._encoded(session, name, Context(image=checked.image))
                    known = (whole or outputs[name, None])[latent]
        return Encodings(outputs, known)

    def _encoded(self, session: Session, name: str, context: Context) -> Mapping[str, Array]:
        """The outputs of an encoder; an image's latent is normalized."""
        entry = self.manifest.encoders[name]
        outputs = session.run(bound_inputs(self._component(entry.role), entry.inputs, context))
        for output in outputs.values():
            sampler.check_finite(output, f"{entry.role} gave")
        if entry.latent is None:
            return outputs
        return {**outputs, entry.latent: sampler.normalize(outputs[entry.latent], self.manifest.latent)}

    def sample(
        self, checked: Checked, encodings: Encodings, callback: StepCallback | None = None,
        seconds: Seconds | None = None,
    ) -> Floats:  # fmt: skip
        """The final normalized latent (1, C, h, w), with the network loaded."""
        noise, source = self.noise(checked.seed), checked.entry.source
        after = None
        if source is not None and encodings.known is not None:
            after = latent_blending.after_step(
                encodings.known, noise, checked.cells, source.preserve_distances
            )
        with self.stage(checked.entry.network, seconds) as session:
            return sampler.sample(
                checked.table, self._evaluate(session, checked, encodings), self._start(checked, encodings, noise),
                lambda index: self.noise(checked.seed, index), checked.start, after, callback, self.manifest.preview,
            )  # fmt: skip

    def _start(self, checked: Checked, encodings: Encodings, noise: Floats) -> Floats:
        """The u of the first row: noise, or the image's latent at that row's noise level."""
        level = checked.table.rows[checked.start].level
        if checked.strength is not None and encodings.known is not None and level is not None:
            return sampler.at_level(level, encodings.known, noise)
        first = checked.table.first
        return noise if first == 1.0 else sampler.weighted_sum([(first, noise)])

    def _evaluate(self, session: Session, checked: Checked, encodings: Encodings) -> sampler.Evaluate:
        """The weighted sum of all branches; those with equal conditions are evaluated once."""
        branches = [self.branch(session, checked, encodings, item) for item in checked.branches]
        distinct = [checked.branches.index(item) for item in checked.branches]
        weights = [item.weight for item in checked.branches]

        def evaluate(latent: Floats, t: float) -> tuple[Floats, Mapping[str, Floats]]:
            outputs: dict[int, Floats] = {}
            for index in distinct:
                if index not in outputs:
                    outputs[index] = branches[index].evaluate(latent, t)
                    sampler.check_finite(outputs[index], f"{checked.entry.network} at time {t:g} gave")
            if weights == [1.0]:
                return outputs[0], branches[0].states()
            terms = zip(weights, (outputs[index] for index in distinct), strict=True)
            return sampler.weighted_sum(terms), branches[0].states()

        return evaluate

    def branch(
        self, session: Session, checked: Checked, encodings: Encodings, active: ActiveBranch
    ) -> Branch:
        """One guidance branch of the loaded network."""
        encoded = {
            (name, output): value
            for (name, prompt), values in encodings.outputs.items()
            if prompt is None or prompt == active.prompt
            for output, value in values.items()
        }
        context = Context(
            tokens=checked.tokens[active.prompt], encoded=encoded, image=checked.shown, mask=checked.cells,
            parameters=checked.parameters,
        )  # fmt: skip
        component = self._component(checked.entry.network)
        return Branch(session, component, active.bindings, checked.entry.output, self.manifest.state, context)

    def decode(self, latent: Floats, seconds: Seconds | None = None) -> Floats:
        """Image (1, 3, H, W) in [0, 1] of a normalized latent (1, C, h, w)."""
        return self.decode_with_alpha(latent, seconds)[0]

    def decode_with_alpha(
        self, latent: Floats, seconds: Seconds | None = None
    ) -> tuple[Floats, Floats | None]:
        """Image (1, 3, H, W) and alpha (1, 1, H, W) in [0, 1]; None where the decoder gives no alpha."""
        entry, raw = self.manifest.decode, sampler.denormalize(latent, self.manifest.latent)
        if entry.role is None:
            return np.clip(raw, 0.0, 1.0), None
        with self.stage(entry.role, seconds) as session:
            image = session.run({entry.input: raw})[entry.output]
        sampler.check_finite(image, f"{entry.role} gave")
        return sampler.split_alpha(image)

    def component_key(self, role: str) -> str:
        """Key of the component with this role at the generator's size."""
        return self.bundle.component(role, self.size.size)[0]

    def _component(self, role: str) -> Component:
        return self.bundle.component(role, self.size.size)[1]

    @contextmanager
    def stage(self, role: str, seconds: Seconds | None = None) -> Iterator[Session]:
        """The loaded session of ``role``, freed at the end of the block unless stages are kept.

        A stage that is not kept belongs to one thread until it is freed; the others wait. The time of the block, loading
        and waiting included, is added to ``seconds``.
        """
        begin = time.perf_counter()
        try:
            if self.keep_loaded:
                yield self._session(role)
                return
            with self._lock:
                try:
                    yield self._session(role)
                finally:
                    if (session := self._sessions.pop(role, None)) is not None:
                        session.close()
                        return_freed_memory()
        finally:
            if seconds is not None:
                seconds[role] = seconds.get(role, 0.0) + time.perf_counter() - begin

    def _session(self, role: str) -> Session:
        with self._lock:
            if role not in self._sessions:
                opener = self._opener or open_session
                self._sessions[role] = opener(
                    self.bundle, self.target, self.component_key(role), self.threads
                )
                return_freed_memory()  # an engine's copies of the weights while it loaded
            return self._sessions[role]
