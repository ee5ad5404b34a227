"""Exports a checkpoint to a bundle: ``mf-export build`` as a function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from microforge.errors import SpecError, missing_extra
from microforge.facade.backends import Size
from microforge.facade.model import Model
from microforge.io.atomic import check_output
from microforge_runtimes.open_model import is_checkpoint

if TYPE_CHECKING:
    from microforge_export.components.component import SourceModel


def export(
    model: Model | str | Path | None, out: str | Path, *, targets: str | Sequence[str] = "onnx",
    precision: str | None = None, size: Size | list[Size] | None = None, tasks: Sequence[str] | None = None,
    recipes: Sequence[str | Path] = (), steps: int | Sequence[int] | None = None, guidance: float | None = None,
    scheduler: str | None = None, vae: str | Path | None = None, loras: Sequence[str | Path] = (), force: bool = False,
    progress: bool = True,
) -> Path:  # fmt: skip
    """Export a checkpoint, or a folder in diffusers' format, to a bundle, and check it through the shipped runtime.

    Takes minutes. ``steps`` to ``loras`` are for models in diffusers' format (docs/your_model.md).

    Args:
        model: folder of a checkpoint or of a model in diffusers' format, a ``Model`` that was loaded from one, or None for the shipped student.
        out: the bundle to write, by convention ``NAME.mfb``; it appears whole at the end or not at all.
        targets: onnx, executorch, coreml or litert, or several of them.
        precision: fp32 or int8, for coreml also fp16; by default fp32, for coreml fp16.
        size: 256, "256x384" or (256, 384), height first, or a list of them for several in one bundle; the trained size
            by default.
        tasks: generate, edit, inpaint, super-resolve; all that the checkpoint knows by default.
        recipes: INT8 recipes made by ``mf-export tune``, at most one per target; the shipped ones by default.
        steps: step counts of the bundle, the default first.
        guidance: default guidance scale; 1 is none.
        scheduler: class of diffusers in place of the model's own.
        vae: folder of another autoencoder, such as TAESD.
        loras: LoRA files ("FILE" or "FILE:0.8") that are folded into the weights.
        force: replace an existing bundle.
        progress: show the stages of the build on stderr.

    Returns:
        The absolute path of the bundle, for ``microforge.load``.

    Raises:
        OutputExistsError: when ``out`` exists and ``force`` is off.
        SpecError: for a bundle in place of a checkpoint, or a target, size, task or precision that is not allowed.
        CheckpointError: when the checkpoint cannot be read.
        MissingExtraError: when a package is not installed; the message names the extra that brings it.
        ParityError: when the bundle differs from the checkpoint by more than its limits; nothing is written.
    """
    source = model.path if isinstance(model, Model) else None if model is None else Path(model)
    if isinstance(model, Model) and not is_checkpoint(model.path):
        raise SpecError(f"{model.path} is a bundle already; export takes a checkpoint")
    out = Path(out)
    check_output(out, force)
    try:
        from microforge_export.build import builder
        from microforge_export.commands.output import progress as shown_progress
        from microforge_export.providers.source_folder import SourceOptions, read_source
        from microforge_export.recipes.build_recipe import make_recipe
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "torch", "export") from None
    recipe = make_recipe(
        target=_joined(targets),
        precision=precision,
        sizes=_sizes(size),
        tasks=None if tasks is None else _joined(tasks),
        recipes=[Path(file) for file in recipes],
    )
    choices = SourceOptions(
        None if steps is None else str(steps) if isinstance(steps, int) else ",".join(map(str, steps)),
        guidance, scheduler, None if vae is None else Path(vae), tuple(str(lora) for lora in loras),
    )  # fmt: skip

    def load() -> SourceModel:
        return read_source(source, choices)

    if not progress:
        builder.build(recipe, load, out, force)
        return out.absolute()
    with shown_progress() as report:
        builder.build(recipe, load, out, force, report)
    return out.absolute()


def _joined(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ",".join(names)


def _sizes(size: Size | list[Size] | None) -> list[str]:
    """Sizes as a command line writes them; a pair of numbers is one size, a list holds several."""
    if size is None:
        return []
    several = size if isinstance(size, list) else [size]
    return ["x".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in several]
