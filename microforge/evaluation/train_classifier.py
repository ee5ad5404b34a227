"""Command line of the training of KID's classifier; heavy packages are imported inside the command.

python -m microforge.evaluation.train_classifier --out classifier.safetensors
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run, say

app = command_app("Train the classifier whose features KID compares.")


@app.command(epilog="Example: python -m microforge.evaluation.train_classifier --out classifier.safetensors")
def command(
    out: Annotated[Path, typer.Option(help="safetensors file to write (float16).")],
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of 32 images.")] = 2400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights and of the data.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Train the classifier, write its weights, and report the accuracy of the written file on unseen renders."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from microforge.evaluation.classifier import load_classifier, to_file
    from microforge.evaluation.classifier_training import (
        ClassifierSettings,
        train_classifier,
        unseen_accuracy,
    )
    from microforge.io.atomic import atomic_bytes, check_output

    check_output(out, force)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("classifier", total=steps)

        def report(step: int, loss: float) -> None:
            progress.update(task, completed=step, description=f"classifier, loss {loss:.3f}")

        classifier = train_classifier(ClassifierSettings(steps=steps, seed=seed), report)
    atomic_bytes(out, to_file(classifier), force)
    written = load_classifier(out)
    shares = {name: round(share, 4) for name, share in unseen_accuracy(written).items()}
    text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    say(f"accuracy on unseen renders: {text}")
    if json:
        print_json({"out": str(out.absolute()), "sha256": written.identity, "accuracy": shares})
    else:
        print(out.absolute())


if __name__ == "__main__":
    run(app)
