"""``mf-export tune``: a command line's words to a request, and a request to a written recipe."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from microforge.bundle.manifest import Size
from microforge.bundle.targets import TargetName
from microforge.errors import SpecError
from microforge.io.atomic import atomic_bytes, check_output
from microforge.spec import parse_size
from microforge_export.quantization.quality import MeasuredQuality
from microforge_export.quantization.tuning.timing import Times, read_measured
from microforge_export.recipes.int8_recipe import (
    Int8Limits,
    Int8Recipe,
    Preference,
    check_note,
    read_recipe,
    render_recipe,
)
from microforge_export.targets.registry import require_packages

#: Engines whose artefacts can be timed where ``tune`` runs.
_TIMED = ("onnx", "executorch")


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """One run of ``mf-export tune``."""

    target: TargetName
    prefer: Preference
    size: str | None  # "256" or "256x384"; None: the size the model was trained at
    prompts: int
    rounds: int
    threads: int
    measured: Times | None
    start: Int8Recipe | None = None
    note: str = ""


def tune_request(
    *, target: str, prefer: str, size: str | None, prompts: int, rounds: int, threads: int, measured: Path | None,
    note: str, start: Path | None = None,
) -> TuneRequest:  # fmt: skip
    """A request from a command line's words.

    Raises:
        SpecError: for a target that cannot be tuned, an unknown preference, a file of measured rows that is not one, or a
            recipe to start from that is of another target.
        MissingExtraError: when the target's packages are not installed.
    """
    engine, wish = _one_of("target", target, TargetName), _one_of("--prefer", prefer, Preference)
    require_packages((engine,))
    from microforge_export.quantization.registry import quantizable_factory

    quantizable_factory(engine)
    if start is not None and measured is not None:
        raise SpecError("--start takes a recipe's choice and --measured chooses by times: give one of them")
    times = None if measured is None else read_measured(measured)
    begun = None if start is None else read_recipe(start)
    if begun is not None and begun.target != engine:
        raise SpecError(f"{start} is a recipe for {begun.target}, not for {engine}; name one with --target")
    return TuneRequest(
        target=engine, prefer=wish, size=size, prompts=prompts, rounds=rounds, threads=threads, measured=times,
        start=begun, note=check_note(note),
    )  # fmt: skip


def run_tune(
    checkpoint: Path | None, out: Path, request: TuneRequest, force: bool, report: Callable[[str], None]
) -> tuple[Int8Recipe, MeasuredQuality]:
    """Measure, choose, and write the recipe to ``out`` whole or not at all.

    Raises:
        OutputExistsError, OutputError: as ``microforge.bundle.files.check_output``, before anything is measured.
        CheckpointError, SpecError: when the model cannot be read or cannot have the size.
        ParityError: when no recipe meets the limits.
    """
    check_output(out, force)
    from microforge_export.providers.microforge import read_model
    from microforge_export.quantization.tuning.choice import TuningSettings
    from microforge_export.quantization.tuning.tune import tune

    model = read_model(checkpoint)
    size = model.native_size
    if request.size is not None:
        height, width = parse_size(request.size, model.latent.downsample)
        size = Size(height=height, width=width)
    effort = TuningSettings(
        prefer=request.prefer, limits=Int8Limits(images=request.prompts), measured=request.measured, note=request.note,
        rounds=request.rounds if request.target in _TIMED else 0, threads=request.threads,
    )  # fmt: skip
    recipe, quality = tune(
        model,
        model.provider.components([size]),
        request.target,
        str(model.description["name"]),
        effort,
        report,
        request.start,
    )
    atomic_bytes(out, render_recipe(recipe).encode(), force)
    return recipe, quality


def _one_of(what: str, name: str, known: object) -> typing.Any:
    allowed = typing.get_args(known)
    if name not in allowed:
        raise SpecError(f"{what} {name!r} is unknown; allowed: {', '.join(allowed)}")
    return name
