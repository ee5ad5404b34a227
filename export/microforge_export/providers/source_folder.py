"""Opens whatever a folder holds as a model to export: a checkpoint of MicroForge, or a folder in diffusers' format."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.errors import CheckpointError, DataError, SpecError, missing_extra
from microforge.io.user_file import read_user_text
from microforge_export.components.component import SourceModel

_FOLDERS = "a folder in diffusers' format (with model_index.json)"
_MAX_STEPS = 1000


@dataclass(frozen=True)
class SourceOptions:
    """What a user can choose of a model that comes in diffusers' format; None and empty are the model's own.

    Attributes:
        steps: step counts, separated by commas, the default first.
        guidance: default guidance scale; 1 is none.
        scheduler: class of the scheduler.
        vae: folder of another autoencoder.
        loras: ``FILE`` or ``FILE:SCALE`` each.
        prompts: file with a prompt per line.
    """

    steps: str | None = None
    guidance: float | None = None
    scheduler: str | None = None
    vae: Path | None = None
    loras: Sequence[str] = ()
    prompts: Path | None = None


def read_source(path: Path | None, options: SourceOptions = SourceOptions()) -> SourceModel:
    """The model in the folder ``path``, or the student that ships with the package.

    Raises:
        CheckpointError: when it is missing or damaged.
        SpecError: for a model that cannot be exported, or an option that does not belong to it.
        MissingExtraError: when the diffusers library is not installed, which its folders need.
    """
    from microforge_export.providers.diffusers.folder import MODEL_INDEX, is_diffusers_folder

    if path is not None and is_diffusers_folder(path):
        return _read_diffusers(path, options)
    names = [item.name for item in dataclasses.fields(options) if getattr(options, item.name)]
    if names:
        option = "--lora" if names[0] == "loras" else f"--{names[0]}"
        raise SpecError(f"{option} is for {_FOLDERS}, not for {path or 'the shipped student'}")
    if path is not None and path.is_file():
        raise CheckpointError(
            f"{path} is a single file; a build takes a folder: save the model with pipeline.save_pretrained(FOLDER) after "
            "StableDiffusionPipeline.from_single_file(FILE)"
        )
    if path is not None and any((path / part).is_dir() for part in ("unet", "transformer", "vae")):
        raise CheckpointError(f"{path} has no {MODEL_INDEX}; download the whole model in diffusers' format")
    from microforge_export.providers.microforge import read_model

    return read_model(path)


def _read_diffusers(path: Path, options: SourceOptions) -> SourceModel:
    steps, prompts = _steps(options.steps), _prompts(options.prompts)
    if options.guidance is not None and not 0.0 <= options.guidance <= 100.0:
        raise SpecError(f"--guidance is {options.guidance:g}; allowed: 0 to 100, where 1 is no guidance")
    try:
        from microforge_export.providers.diffusers.loading import parse_lora
        from microforge_export.providers.diffusers.source import DiffusersOptions, read_model

        loras = tuple(parse_lora(text) for text in options.loras)
        return read_model(
            path, DiffusersOptions(steps, options.guidance, options.scheduler, options.vae, loras, prompts)
        )
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "diffusers", "diffusers") from None


def _steps(text: str | None) -> tuple[int, ...]:
    counts = []
    for word in (text or "").split(",") if text is not None else ():
        if not word.strip().isdecimal() or not 1 <= int(word) <= _MAX_STEPS:
            raise SpecError(
                f"--steps is {text!r}; allowed: numbers from 1 to {_MAX_STEPS}, separated by commas, such as 4,8"
            )
        counts.append(int(word))
    return tuple(dict.fromkeys(counts))


def _prompts(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in read_user_text(file).splitlines()]
    except OSError as error:
        raise DataError(f"--prompts {file} {error}") from None
    prompts = tuple(line for line in lines if line)
    if not prompts:
        raise DataError(f"--prompts {file} is empty; write a prompt per line")
    return prompts
