"""A loaded model with one method per job."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from microforge.bundle.sampling import Task
from microforge.errors import BundleError, SpecError
from microforge.facade.backends import Backend, Size
from microforge.facade.images import ImageLike, mask_pixels, source_image
from microforge.facade.publish import publish
from microforge.facade.result import GeneratedImage
from microforge_runtimes.commands.output import settings_of
from microforge_runtimes.images.source_request import SourceRequest, source_request
from microforge_runtimes.open_model import run
from microforge_runtimes.request import Request
from microforge_runtimes.sampler import Step

#: Called after every sampling step.
Callback = Callable[[Step], None]


class Model:
    """A bundle or a checkpoint that generates and edits images; made by ``microforge.load``.

    Every method takes ``seed`` (0 to 2**64 - 1; the same seed gives the same image), ``steps`` (sampling steps; the
    model's own number by default), ``size`` (256, "256x384" or (256, 384), height first) and ``callback`` (called after
    every sampling step with a ``microforge.Step``).

    A model may be used by several threads at once: every call gives the image that it gives alone. Those of a bundle with
    ``keep_loaded=False`` take turns, stage by stage. ``close`` it when no thread uses it any more.

    Source images are paths, Pillow images, earlier results or arrays (uint8, or floats in [0, 1]) of any size; masks are
    the same, white (255, 1.0, True) where pixels may change.

    Every method raises ``PromptError`` for an empty prompt where one is needed, ``SpecError`` for an option that is not
    allowed, ``BundleError`` for a task, a size or a step count that the model does not have, and ``DataError`` for an
    image that cannot be used. All of them are ``ValueError``.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def path(self) -> Path:
        """The folder or archive that the model was loaded from."""
        return self._backend.path

    @property
    def tasks(self) -> tuple[str, ...]:
        """The jobs that the model can do."""
        return tuple(self._backend.tasks)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes (height, width) of a bundle, or the size that a checkpoint was trained at."""
        return self._backend.sizes

    @property
    def steps(self) -> int:
        """Sampling steps by default."""
        return self._backend.steps

    def generate(
        self, prompt: str, *, seed: int = 0, steps: int | None = None, size: Size | None = None,
        callback: Callback | None = None,
    ) -> GeneratedImage:  # fmt: skip
        """Generate an image from a prompt."""
        return self._run(None, prompt, seed, steps, size, callback)

    def edit(
        self, image: ImageLike, prompt: str, mask: ImageLike | None = None, *, composite: bool = False,
        seed: int = 0, steps: int | None = None, size: Size | None = None, callback: Callback | None = None,
    ) -> GeneratedImage:  # fmt: skip
        """Change a source image as an instruction says, for example ``"make the circle green"``.

        Args:
            image: the source image; the result has its size.
            prompt: the instruction.
            mask: pixels that may change; all others are preserved bit for bit. None: the model decides.
            composite: preserve the source's own pixels wherever nothing visibly changed; not together with ``mask``.
            seed: see the class.
            steps: see the class.
            size: see the class.
            callback: see the class.
        """
        if composite and mask is not None:
            raise SpecError("composite finds by itself what mask says; give one of them")
        request = self._source("edit", image, mask, composite=composite)
        return self._run(request, prompt, seed, steps, size, callback)

    def inpaint(
        self, image: ImageLike, mask: ImageLike, prompt: str = "", *, seed: int = 0, steps: int | None = None,
        size: Size | None = None, callback: Callback | None = None,
    ) -> GeneratedImage:  # fmt: skip
        """Fill the masked pixels of a source image; all others are preserved bit for bit.

        Args:
            image: the source image; the result has its size.
            mask: pixels to fill.
            prompt: what the whole image shows; may be empty.
            seed: see the class.
            steps: see the class.
            size: see the class.
            callback: see the class.
        """
        return self._run(self._source("inpaint", image, mask), prompt, seed, steps, size, callback)

    def super_resolve(
        self, image: ImageLike, factor: int = 2, prompt: str = "", *, seed: int = 0, steps: int | None = None,
        size: Size | None = None, callback: Callback | None = None,
    ) -> GeneratedImage:  # fmt: skip
        """Enlarge a source image ``factor`` (2 or 4) times, in overlapping tiles where it does not fit into one.

        Args:
            image: the source image.
            factor: 2 or 4.
            prompt: what the image shows; may be empty.
            seed: of the first tile; tile i has seed + i.
            steps: see the class.
            size: see the class.
            callback: see the class; its steps count through all tiles.
        """
        return self._run(
            self._source("super-resolve", image, factor=factor), prompt, seed, steps, size, callback
        )

    def vary(
        self, image: ImageLike, prompt: str = "", mask: ImageLike | None = None, *, strength: float = 0.5,
        seed: int = 0, steps: int | None = None, size: Size | None = None, callback: Callback | None = None,
    ) -> GeneratedImage:  # fmt: skip
        """Generate an image that is similar to a source image (SDEdit, arXiv 2108.01073).

        Args:
            image: the source image; the result has its size.
            prompt: what the image shows; may be empty.
            mask: pixels that may change; all others are preserved bit for bit. None: everywhere.
            strength: share of the sampling steps that are run, above 0 to 1; less stays nearer to the source.
            seed: see the class.
            steps: see the class.
            size: see the class.
            callback: see the class.
        """
        request = self._source("vary", image, mask)
        return self._run(request, prompt, seed, steps, size, callback, strength)

    def push_to_hub(
        self, name: str, *, revision: str | None = None, private: bool = False,
        message: str = "Upload with microforge", token: str | None = None,
    ) -> str:  # fmt: skip
        """Upload the model to the Hugging Face hub, as one commit and with a model card.

        Args:
            name: ``owner/name``; the repository is made when it does not exist.
            revision: an existing branch; the main branch by default.
            private: whether a repository that is made now is private.
            message: of the commit.
            token: access token that may write; the one that ``hf auth login`` stored by default.

        Returns:
            Address of the commit.

        Raises:
            HubError: when the hub refuses it or cannot be reached.
            MissingExtraError: when huggingface_hub is not installed: ``pip install 'microforge[hub]'``.
        """
        return publish(self._backend, name, revision, private, message, token)

    def close(self) -> None:
        """Free all networks; a ``with`` block does this at its end."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r}, tasks: {', '.join(self.tasks)})"

    def _source(
        self, task: str, image: ImageLike, mask: ImageLike | None = None, factor: int | None = None,
        composite: bool = False,
    ) -> SourceRequest:  # fmt: skip
        """What ``task`` is to make of ``image``."""
        entry = self._entry(task).source
        if entry is None:
            raise BundleError(f"{self.path}: its task {task} does not start from an image")
        if entry.enlarge is not None and factor not in entry.enlarge.factors:
            allowed = ", ".join(map(str, entry.enlarge.factors))
            raise SpecError(f"factor is {factor}; allowed: {allowed}")
        source = source_image(image)
        region = None if mask is None else mask_pixels(mask, source)
        return source_request(task, entry, source, region, factor, composite)

    def _entry(self, task: str) -> Task:
        if task not in self.tasks:
            raise BundleError(f"{self.path} cannot {task}; its tasks: {', '.join(self.tasks)}")
        return self._backend.tasks[task]

    def _run(
        self, request: SourceRequest | None, prompt: str, seed: int, steps: int | None, size: Size | None,
        callback: Callback | None, strength: float | None = None,
    ) -> GeneratedImage:  # fmt: skip
        task = "generate" if request is None else request.task
        optional = self._entry(task).prompt == "optional"
        generator = self._backend.generator(size, request)
        for remark in () if request is None else request.source.remarks:
            warnings.warn(remark, stacklevel=3)
        start = time.perf_counter()
        wanted = Request(
            (prompt or None) if optional else prompt, task, seed=seed, steps=steps, strength=strength
        )
        result, pixels = run(generator, request, wanted, callback)
        seconds = time.perf_counter() - start
        if result.truncated:
            limit = generator.max_length
            warnings.warn(f"the prompt is longer than {limit} tokens; its end is ignored", stacklevel=3)
        profile = None if request is None else request.source.profile
        settings = settings_of(result, request, prompt or None, self._backend.target, self._backend.threads)
        return GeneratedImage(
            pixels, settings, seconds, result.truncated, None if profile is None else profile.icc
        )
