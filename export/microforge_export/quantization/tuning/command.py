"""``mf-export tune``: parses the options of a run, and writes its recipe."""

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
from microforge_export.recipes.int8_recipe import Int8Limits, Int8Recipe, Preference
from microforge_export.recipes.recipe_file import check_note, read_recipe, render_recipe
from microforge_export.targets.registry import require_packages

#: Engines whose artefacts can be timed on the machine that tunes.
_TIMED_ENGINES = ("onnx", "executorch", "litert")


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """The options of one run of ``mf-export tune``."""

    target: TargetName
    prefer: Preference
    size: str | None  # "256" or "256x384"; None for the size that the model was trained at
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
    """Parse and check the options of a run; the files of measured rows and of the first recipe are read.

    Raises:
        SpecError: if a name is unknown, options exclude one another, or a file cannot be used.
        MissingExtraError: if the packages of the target are not installed.
    """
    engine, preference = (
        _one_of("--target", target, TargetName),
        _one_of("--prefer", prefer, Preference),
    )
    require_packages((engine,))
    from microforge_export.quantization.registry import quantizable_factory

    quantizable_factory(engine)  # refuses a target that cannot be tuned
    if start is not None and measured is not None:
        raise SpecError(
            "--start uses the choice of a recipe and --measured chooses by times; give only one of them"
        )
    times = None if measured is None else read_measured(measured)
    first_recipe = None if start is None else read_recipe(start)
    if first_recipe is not None and first_recipe.target != engine:
        raise SpecError(
            f"{start} is a recipe for {first_recipe.target}, not for {engine}; choose it with --target"
        )
    return TuneRequest(
        target=engine, prefer=preference, size=size, prompts=prompts, rounds=rounds, threads=threads,
        measured=times, start=first_recipe, note=check_note(note),
    )  # fmt: skip


def run_tune(
    checkpoint: Path | None, out: Path, request: TuneRequest, force: bool, report: Callable[[str], None]
) -> tuple[Int8Recipe, MeasuredQuality]:
    """Measure candidates, choose, and write the recipe to ``out``; it appears complete or not at all.

    Raises:
        OutputExistsError: if ``out`` exists and ``force`` is not set; checked before anything is measured.
        OutputError: if ``out`` cannot be written.
        CheckpointError: if the model cannot be read.
        SpecError: if the model cannot have the size.
        ParityError: if no recipe meets the limits.
    """
    check_output(out, force)
    from microforge_export.providers.source_folder import read_source
    from microforge_export.quantization.tuning.choice import TuningSettings
    from microforge_export.quantization.tuning.tune import tune

    model = read_source(checkpoint)
    size = model.native_size
    if request.size is not None:
        height, width = parse_size(request.size, model.provider.driving(model.tasks).latent.downsample)
        size = Size(height=height, width=width)
    settings = TuningSettings(
        prefer=request.prefer, limits=Int8Limits(images=request.prompts), measured=request.measured,
        note=request.note, rounds=request.rounds if request.target in _TIMED_ENGINES else 0,
        threads=request.threads,
    )  # fmt: skip
    components, name = model.provider.components([size], model.tasks[:1]), model.about.name
    recipe, quality = tune(model, components, request.target, name, settings, report, request.start)
    atomic_bytes(out, render_recipe(recipe).encode(), force)
    return recipe, quality


def _one_of(option: str, name: str, known: object) -> typing.Any:
    allowed = typing.get_args(known)
    if name not in allowed:
        raise SpecError(f"{option} {name!r} is unknown; allowed: {', '.join(allowed)}")
    return name
