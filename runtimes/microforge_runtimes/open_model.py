"""A bundle or a checkpoint opened the same way, and a user's image made with it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import MANIFEST
from microforge.bundle.sampling import Task
from microforge.errors import SignatureError, SpecError, missing_extra
from microforge.io.threads import usable_threads
from microforge.spec import SizeInput, parse_size, read_size
from microforge_runtimes.editor import Editor
from microforge_runtimes.generator import Request, Result
from microforge_runtimes.images.image_file import Pixels
from microforge_runtimes.images.source_request import (
    CanvasInputs,
    SourceRequest,
    assemble_enlargement,
    choose_size,
    from_canvas,
    split,
    to_canvas,
)
from microforge_runtimes.images.tiling import Tile
from microforge_runtimes.request import Checked
from microforge_runtimes.sampler import StepCallback

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Choice:
    """How a model is opened; None is the model's own choice."""

    size: SizeInput | None = None  # 128, "128x256" or (128, 256), height first
    target: str | None = None
    threads: int | None = None
    key: Ed25519PublicKey | None = None  # that must have signed the bundle


def is_checkpoint(model: Path) -> bool:
    """Whether ``model`` is a checkpoint's folder; anything else is taken for a bundle."""
    return (model / "config.json").is_file() and not (model / MANIFEST).is_file()


def task_entries(model: Path, key: Ed25519PublicKey | None = None) -> Mapping[str, Task]:
    """The tasks of a bundle or a checkpoint by name; reads no weights.

    Args:
        key: public key that must have signed the bundle; None takes unsigned ones too.

    Raises:
        BundleError: when it is neither, or a damaged bundle.
        CheckpointError: for a damaged checkpoint.
        MissingExtraError: for a checkpoint when torch is not installed.
        SignatureError: when ``key`` did not sign the bundle, and for a checkpoint, which has no signature.
    """
    if is_checkpoint(model):
        refuse_key(model, key)
        tasks: Mapping[str, Task] = _torch_module("microforge.components.networks").checkpoint_tasks(model)
        return tasks
    return load_bundle(model, key).manifest.tasks


def refuse_key(checkpoint: Path, key: object) -> None:
    """Refuse a checkpoint where a signature is asked for.

    Raises:
        SignatureError: when ``key`` is not None.
    """
    if key is not None:
        raise SignatureError(
            f"{checkpoint} is a checkpoint; only bundles are signed (mf-export sign): open it without a key"
        )


def _torch_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "train") from None


def open_model(model: Path, choice: Choice, source: SourceRequest | None = None) -> Editor:
    """Open ``model`` at the chosen size, or at the one that suits ``source`` best.

    Raises:
        BundleError, CheckpointError, SpecError: when it cannot be opened, or not so.
        MissingExtraError: when torch is not installed, which a checkpoint needs.
        SignatureError: when the chosen key did not sign the bundle.
    """
    if is_checkpoint(model):
        refuse_key(model, choice.key)
        if choice.target is not None:
            raise SpecError(f"--target {choice.target} is for bundles; {model} is a checkpoint")
        return open_checkpoint(
            model, None if choice.size is None else parse_size(choice.size), choice.threads
        )
    bundle, target = load_bundle(model, choice.key), choice.target or "onnx"
    size = None if choice.size is None else parse_size(choice.size, bundle.manifest.latent.downsample)
    if size is None and source is not None:
        size = choose_size(source, [(entry.height, entry.width) for entry in bundle.manifest.sizes])
    editor = Editor(bundle, target, size, choice.threads)
    if source is not None:  # tiles: the stages stay in memory from one to the next
        editor.keep_loaded = len(split(source, _pixels(editor))) > 1
    return editor


def open_checkpoint(
    folder: Path, size: SizeInput | None = None, threads: int | None = None, pipeline: Any = None
) -> Editor:
    """A checkpoint with torch in place of an engine; it is how a model is tried before it is exported.

    Args:
        folder: of the checkpoint.
        size: in pixels: 256, "256x384" or (256, 384), height first; the trained size when None.
        threads: that torch may use.
        pipeline: of ``folder``, where it is loaded already.

    Raises:
        CheckpointError: when it is missing, damaged or not trained far enough.
        SpecError: without a tokenizer, or for a size that is not allowed.
        MissingExtraError: when torch is not installed.
    """
    networks = _torch_module("microforge.components.networks")
    if (count := usable_threads(threads)) is not None:
        _torch_module("torch").set_num_threads(count)
    bundle, opener = networks.open_checkpoint(folder, None if size is None else read_size(size), pipeline)
    return Editor(bundle, "torch", keep_loaded=True, opener=opener)


def check(model: Editor, source: SourceRequest | None, request: Request) -> Checked:
    """Everything that can be refused before an engine loads; raises as ``Generator.check``."""
    if source is None:
        return model.check(request)
    size = _pixels(model)
    return model.check(_with_image(request, to_canvas(source, size, split(source, size)[0])))


def run(
    model: Editor, source: SourceRequest | None, request: Request, callback: StepCallback | None = None
) -> tuple[Result, Pixels]:
    """The sample, and the user's image made from it: (h, w, 3), or (h, w, 4) where the source has alpha.

    An image that is enlarged is made in tiles: tile i from seed + i, and the result is the last one's.
    """
    if source is None:
        result = model.run(request, callback)
        return result, result.image
    size = _pixels(model)
    parts, results = split(source, size), []
    tiles: list[tuple[Tile, CanvasInputs, Pixels]] = []
    for index, tile in enumerate(parts):
        ready = to_canvas(source, size, tile)
        own = replace(_with_image(request, ready), seed=(request.seed + index) % 2**64)
        results.append(model.run(own, _counted(callback, index, len(parts))))
        tiles.append((tile, ready, results[-1].image))
    result = replace(results[-1], seed=request.seed)
    if source.enlarges:
        return result, assemble_enlargement(source, tiles)
    return result, from_canvas(source, tiles[0][1], result.image)


def _counted(callback: StepCallback | None, tile: int, tiles: int) -> StepCallback | None:
    """``callback`` with the steps of all tiles counted together."""
    if callback is None or tiles == 1:
        return callback
    return lambda step: callback(
        replace(step, index=tile * step.steps + step.index, steps=tiles * step.steps)
    )


def _with_image(request: Request, ready: CanvasInputs) -> Request:
    return replace(request, image=ready.source, mask=ready.mask)


def _pixels(model: Editor) -> tuple[int, int]:
    return model.size.height, model.size.width
