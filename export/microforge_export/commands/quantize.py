"""``mf-export tune``: writes an INT8 recipe from measurements."""

from __future__ import annotations

from pathlib import Path

from microforge.io.console import say
from microforge_export.commands import options
from microforge_export.commands.output import print_result


def tune(
    checkpoint: options.Checkpoint = None,
    out: options.RecipeOut = Path("recipe.toml"),
    target: options.TuneTarget = "onnx",
    prefer: options.Prefer = "speed",
    size: options.TuneSize = None,
    start: options.StartRecipe = None,
    prompts: options.Prompts = 32,
    rounds: options.Rounds = 30,
    threads: options.Threads = 2,
    measured: options.Measured = None,
    note: options.Note = "",
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Measure INT8 candidates and write the best one within the limits as a recipe.

    The run minimises the time of one evaluation of each component, or its bytes with --prefer size. The limits
    are on the PSNR of components and whole images, on the guidance-norm ratio and on the relative state error.
    """
    from microforge_export.quantization.tuning.command import run_tune, tune_request

    request = tune_request(
        target=target, prefer=prefer, size=size, prompts=prompts, rounds=rounds, threads=threads, measured=measured,
        note=note, start=start,
    )  # fmt: skip
    recipe, quality = run_tune(checkpoint, out, request, force, say)
    from microforge_export.quantization.tuning.view import tune_table, tune_values

    print_result(json, tune_values(recipe, quality), tune_table(recipe, quality))
