"""What runs a ``Model``: a bundle with an inference engine, or a checkpoint with torch."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from microforge.bundle.files import load_bundle
from microforge.bundle.sampling import Task
from microforge.errors import SpecError, missing_extra
from microforge.spec import SizeInput, parse_size
from microforge_runtimes.editor import Editor
from microforge_runtimes.images.source_request import SourceRequest, choose_size
from microforge_runtimes.open_model import is_checkpoint, open_checkpoint, refuse_key, task_entries

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from microforge.pipeline import MicroForgePipeline

#: An image size: 256, "256x384" or (256, 384), height first.
Size = SizeInput


class Backend(Protocol):
    """An opened bundle or checkpoint; usable by several threads at once."""

    path: Path
    tasks: Mapping[str, Task]
    sizes: tuple[tuple[int, int], ...]  # (height, width); of a checkpoint the trained one, others work too
    steps: int  # sampling steps by default
    target: str  # the engine: onnx, executorch, coreml, or torch for a checkpoint
    threads: int | None

    def generator(self, size: Size | None, request: SourceRequest | None) -> Editor:
        """The generator of one size; the size that suits the source image of ``request`` best when None."""

    def close(self) -> None:
        """Free all networks."""


class BundleBackend:
    """Runs a bundle; its networks stay in memory between images where ``keep_loaded``."""

    def __init__(
        self, path: Path, engine: str | None, threads: int | None, keep_loaded: bool,
        key: Ed25519PublicKey | None = None,
    ) -> None:  # fmt: skip
        self.path, self._bundle = path, load_bundle(path, key)
        manifest = self._bundle.manifest
        self.target = engine or ("onnx" if "onnx" in manifest.targets else next(iter(manifest.targets)))
        self._bundle.target(self.target)
        self.threads, self._keep_loaded = threads, keep_loaded
        self.tasks: Mapping[str, Task] = manifest.tasks
        self.sizes = tuple((entry.height, entry.width) for entry in manifest.sizes)
        self.steps = manifest.steps
        self._generators: dict[tuple[int, int] | None, Editor] = {}
        self._lock = threading.Lock()

    def generator(self, size: Size | None, request: SourceRequest | None) -> Editor:
        """As ``Backend``."""
        pixels = None if size is None else parse_size(size, self._bundle.manifest.latent.downsample)
        if pixels is None and request is not None:
            pixels = choose_size(request, self.sizes)
        with self._lock:
            if pixels not in self._generators:
                self._generators[pixels] = Editor(
                    self._bundle, self.target, pixels, self.threads, self._keep_loaded
                )
            return self._generators[pixels]

    def close(self) -> None:
        """Free all networks."""
        while self._generators:
            self._generators.popitem()[1].close()


class CheckpointBackend:
    """Runs a checkpoint in PyTorch, in float32."""

    def __init__(self, path: Path, threads: int | None, device: str | None) -> None:
        self.path, self.target, self.threads, self._device = path, "torch", threads, device
        self._pipeline: MicroForgePipeline | None = None
        self._editors: dict[tuple[int, int], Editor] = {}
        self._lock = threading.Lock()
        spec = self._load().spec
        self.tasks: Mapping[str, Task] = task_entries(path)
        self.sizes: tuple[tuple[int, int], ...] = (spec.native_size,)
        self.steps = len(spec.sampler.timesteps) - 1
        self._multiple: int = spec.vae.downsample

    def _load(self) -> MicroForgePipeline:
        if self._pipeline is None:
            try:
                from microforge.pipeline import MicroForgePipeline
            except ModuleNotFoundError as error:
                raise missing_extra(error.name or "torch", "train") from None
            pipeline = MicroForgePipeline.from_pretrained(self.path)
            self._pipeline = pipeline if self._device is None else pipeline.to(self._device)
        return self._pipeline

    def generator(self, size: Size | None, request: SourceRequest | None) -> Editor:
        """As ``Backend``; the trained size unless another is asked for."""
        pixels = self.sizes[0] if size is None else parse_size(size, self._multiple)
        with self._lock:
            if pixels not in self._editors:
                self._editors[pixels] = open_checkpoint(self.path, pixels, self.threads, self._load())
            return self._editors[pixels]

    def close(self) -> None:
        """Drop the networks."""
        self._editors.clear()
        self._pipeline = None


def open_backend(
    path: Path, engine: str | None, threads: int | None, device: str | None, keep_loaded: bool,
    key: Ed25519PublicKey | None = None,
) -> Backend:  # fmt: skip
    """Open a bundle or a checkpoint.

    Raises:
        SpecError: for an engine with a checkpoint, or a device with a bundle.
        BundleError: for a bundle that cannot be opened.
        CheckpointError: for a checkpoint that cannot be opened.
        MissingExtraError: for a checkpoint without torch.
        SignatureError: when ``key`` is given and did not sign the bundle.
    """
    if is_checkpoint(path):
        refuse_key(path, key)
        if engine is not None:
            raise SpecError(f"target {engine!r} is for bundles; {path} is a checkpoint, which runs in torch")
        return CheckpointBackend(path, threads, device)
    if device is not None:
        raise SpecError(f"device {device!r} is for checkpoints; {path} is taken for a bundle")
    return BundleBackend(path, engine, threads, keep_loaded, key)
