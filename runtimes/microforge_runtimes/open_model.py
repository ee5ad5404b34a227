"""A bundle or a checkpoint as one kind of thing that draws, and a user's request drawn by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import MANIFEST, Task
from microforge.errors import SpecError
from microforge.spec import parse_size
from microforge.tokenizer import TokenIds
from microforge_runtimes.editor import Editor
from microforge_runtimes.generator import Generator, Result
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
from microforge_runtimes.sampler import Step, StepCallback
from microforge_runtimes.torch_editor import CheckpointEditor

#: Both generate; an ``Editor``, which is a ``Generator``, and a checkpoint also draw from a source.
Drawer = Generator | CheckpointEditor


@dataclass(frozen=True)
class Choice:
    """How a command line asks for a drawing; None is the model's own choice."""

    task: Task
    size: str | None = None  # "128" or "128x256" (height x width)
    target: str | None = None
    threads: int | None = None


def is_checkpoint(model: Path) -> bool:
    """Whether ``model`` is a checkpoint's folder; anything else is taken for a bundle."""
    return (model / "config.json").is_file() and not (model / MANIFEST).is_file()


def known_tasks(model: Path) -> tuple[Task, ...] | None:
    """The tasks of a bundle; None for a checkpoint, which tells when it is loaded.

    Raises:
        BundleError: when it is neither.
    """
    return None if is_checkpoint(model) else load_bundle(model).manifest.tasks


def open_drawer(model: Path, choice: Choice, request: SourceRequest | None) -> Drawer:
    """Open ``model`` at the chosen size, or at the one that suits ``work`` best.

    Raises:
        BundleError, CheckpointError, SpecError: when it cannot be opened, or not so.
    """
    if is_checkpoint(model):
        if choice.target is not None:
            raise SpecError(f"--target {choice.target} is for bundles; {model} is a checkpoint")
        size = None if choice.size is None else parse_size(choice.size)
        return CheckpointEditor(model, size, choice.threads)
    bundle, target = load_bundle(model), choice.target or "onnx"
    size = None if choice.size is None else parse_size(choice.size, bundle.manifest.latent.downsample)
    if request is None:
        return Generator(bundle, target, size, choice.threads)
    if size is None:
        size = choose_size(request, [(entry.height, entry.width) for entry in bundle.manifest.sizes])
    several = len(split(request, size)) > 1  # tiles: the stages stay in memory from one to the next
    return Editor(bundle, target, size, choice.threads, keep_loaded=several)


def check(
    drawer: Drawer, request: SourceRequest | None, prompt: str | None, seed: int, steps: int | None
) -> TokenIds:
    """The prompt's token ids, after everything that can be refused before an engine loads."""
    if request is None:
        return drawer.check(prompt or "", seed, steps)
    split(request, _size(drawer))
    return _editor(drawer).check_redraw(request.task, prompt, seed, steps)


def draw(
    drawer: Drawer, request: SourceRequest | None, prompt: str | None, seed: int, steps: int | None,
    callback: StepCallback | None = None,
) -> tuple[Result, Pixels]:  # fmt: skip
    """The drawing, and the user's image made from it: (h, w, 3), or (h, w, 4) where the source has alpha."""
    if request is None:
        result = drawer.generate(prompt or "", seed, steps, callback)
        return result, result.image
    editor, size = _editor(drawer), _size(drawer)
    if request.task == "super-resolve":
        return _enlarge(editor, request, size, prompt, seed, steps, callback)
    ready = to_canvas(request, size, split(request, size)[0])
    if request.task == "inpaint" and ready.mask is not None:
        result = editor.inpaint(ready.source, ready.mask, prompt, seed, steps, callback)
    else:
        result = editor.edit(ready.source, prompt, seed, steps, callback, ready.mask)
    return result, from_canvas(request, ready, result.image)


def _enlarge(
    editor: Editor | CheckpointEditor, request: SourceRequest, size: tuple[int, int], prompt: str | None, seed: int,
    steps: int | None, callback: StepCallback | None,
) -> tuple[Result, Pixels]:  # fmt: skip
    """Super-resolve tile by tile; tile i is drawn with seed + i. The result is the last tile's."""
    parts, results = split(request, size), []
    drawn: list[tuple[Tile, CanvasInputs, Pixels]] = []
    for index, tile in enumerate(parts):

        def told(step: Step, before: int = index) -> None:
            if callback is not None:
                done, total = before * step.steps + step.index, len(parts) * step.steps
                callback(replace(step, index=done, steps=total))

        ready = to_canvas(request, size, tile)
        own_seed = (seed + index) % 2**64
        results.append(
            editor.super_resolve(ready.source, request.magnification, prompt, own_seed, steps, told)
        )
        drawn.append((tile, ready, results[-1].image))
    return replace(results[-1], seed=seed), assemble_enlargement(request, drawn)


def _editor(drawer: Drawer) -> Editor | CheckpointEditor:
    if not isinstance(drawer, (Editor, CheckpointEditor)):
        raise TypeError(f"{type(drawer).__name__} does not draw from a source")
    return drawer


def _size(drawer: Drawer) -> tuple[int, int]:
    """(height, width) that a drawer of sources draws."""
    editor = _editor(drawer)
    return editor.size if isinstance(editor, CheckpointEditor) else (editor.size.height, editor.size.width)
