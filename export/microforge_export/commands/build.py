"""``mf-export build``: exports a checkpoint to a bundle and checks it through the shipped runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from microforge.io.console import print_json, say
from microforge_export.commands import options
from microforge_export.commands.output import print_result, progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from microforge_export.build.builder import BuildResult
    from microforge_export.components.component import SourceModel
    from microforge_export.recipes.build_recipe import Recipe


def build(
    checkpoint: options.Source = None,
    out: options.BundleOut = None,
    target: options.Targets = "onnx",
    size: options.Sizes = None,
    precision: options.Precision = None,
    recipe: options.Recipes = None,
    tasks: options.Tasks = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    scheduler: options.Scheduler = None,
    vae: options.Vae = None,
    lora: options.Loras = None,
    prompts: options.PromptFile = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a checkpoint, or a model in diffusers' format, to a bundle and check it through the shipped runtime.

    Every component is compared with PyTorch on recorded inputs, and whole images are compared pixel by pixel.
    If a limit is missed, nothing is written and the exit code is 1.
    """
    from microforge.errors import OutputError
    from microforge.io.atomic import check_output
    from microforge_export.recipes.build_recipe import make_recipe

    chosen = make_recipe(
        target=target, precision=precision, sizes=size or (), tasks=tasks, recipes=recipe or ()
    )
    if out is None and not dry_run:
        raise OutputError("the output is missing: give it with --out NAME.mfb")
    if out is not None:
        check_output(out, force)

    from microforge_export.providers.source_folder import SourceOptions, read_source

    chosen_options = SourceOptions(steps, guidance, scheduler, vae, tuple(lora or ()), prompts)

    def load() -> SourceModel:
        model = read_source(checkpoint, chosen_options)
        for remark in model.remarks:
            say(remark)
        return model

    if dry_run or out is None:
        from microforge_export.build import builder
        from microforge_export.build.dry_run_view import plan_table, plan_values

        planned = builder.plan(chosen, load)
        print_result(json, plan_values(planned), plan_table(planned))
        return
    result = _build(chosen, load, out, force)
    from microforge_export.build.result_view import result_lines, result_values

    for line in result_lines(result):
        say(line)
    if json:
        print_json(result_values(result, out))
    else:
        print(out.absolute())


def _build(recipe: Recipe, load: Callable[[], SourceModel], out: Path, force: bool) -> BuildResult:
    """Build with a progress bar; if the INT8 quality misses a limit, show every metric and what is at fault."""
    from microforge_export.build import builder
    from microforge_export.quantization.quality_gate import QualityError

    try:
        with progress() as report:
            return builder.build(recipe, load, out, force, report)
    except QualityError as error:
        from rich.console import Console

        from microforge_export.quantization.quality_view import fault_tables

        Console(stderr=True).print(fault_tables(error))
        raise
