"""``mf-export build``: exports a checkpoint to a bundle and checks it through the shipped runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from microforge.io.console import print_json, say
from microforge_export.commands import options
from microforge_export.commands.output import print_result, progress

if TYPE_CHECKING:
    from microforge_export.build.builder import BuildResult
    from microforge_export.components.component import SourceModel


def build(
    checkpoint: options.Checkpoint = None,
    out: options.BundleOut = None,
    target: options.Targets = "onnx",
    size: options.Sizes = None,
    precision: options.Precision = None,
    recipe: options.Recipes = None,
    tasks: options.Tasks = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a checkpoint to a bundle and check it through the shipped runtime.

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

    from microforge_export.build import builder
    from microforge_export.providers.microforge import read_model

    def load() -> SourceModel:
        return read_model(checkpoint)

    if dry_run or out is None:
        from microforge_export.build.dry_run_view import plan_table, plan_values

        planned = builder.plan(chosen, load)
        print_result(json, plan_values(planned), plan_table(planned))
        return
    from microforge_export.quantization.quality_gate import QualityError

    try:
        with progress() as report:
            result = builder.build(chosen, load, out, force, report)
    except QualityError as error:
        from rich.console import Console

        from microforge_export.quantization.quality_view import fault_tables

        Console(stderr=True).print(fault_tables(error))
        raise
    _print_built(result, out, json)


def _print_built(result: BuildResult, out: Path, json: bool) -> None:
    from microforge_export.checks.metrics import image_metrics

    for name, target in result.manifest.targets.items():
        for key, value in target.parity.items():
            say(f"{name} {key}: {value.psnr_db:.1f} dB (limit: at least {value.threshold_db:g} dB)")
        if target.image is not None:
            worst, limit = target.image.max_abs_255, target.image.threshold
            say(f"{name} images: worst pixel differs by {worst:.3g}/255 (limit: {limit:g}/255)")
        for size, quality in target.quality.items():
            for metric in image_metrics(quality):
                say(f"{name} at {size}: {metric.what} is {metric.measured()} (limit: {metric.needed()})")
    if json:
        print_json(_result_values(result, out))
    else:
        print(out.absolute())


def _result_values(result: BuildResult, out: Path) -> dict[str, Any]:
    from microforge_export.checks.inspect import target_bytes

    manifest = result.manifest
    return {
        "bundle": str(out.absolute()),
        "id": result.bundle_id,
        "sizes": [str(entry.size) for entry in manifest.sizes],
        "targets": {
            name: {
                "bytes": target_bytes(target),
                "parity": {key: value.model_dump() for key, value in target.parity.items()},
                "image": None if target.image is None else target.image.model_dump(),
                "quality": {size: value.model_dump() for size, value in target.quality.items()},
                "delegated_fraction": target.delegated_fraction,
            }
            for name, target in manifest.targets.items()
        },
        "seconds": round(sum(result.seconds.by_stage.values()), 2),
    }
