"""``mf-train``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from microforge.cli import command_app, print_json, run

app = command_app("Train MicroForge, one stage at a time: first vae, then flow.")

EXAMPLE = (
    "Example: mf-train vae --config nano --out runs/nano --size 128  then  "
    "mf-train flow --config nano --out runs/nano --size 128. "
    "The finished model is runs/nano/flow/checkpoint."
)


class StageName(StrEnum):
    """What to train."""

    vae = "vae"
    flow = "flow"


@app.command(epilog=EXAMPLE)
def train(
    stage: Annotated[StageName, typer.Argument(help="vae first, then flow in the same --out.")],
    out: Annotated[Path, typer.Option(help="Run folder; each stage keeps its state in a folder of its own.")],
    config: Annotated[str, typer.Option(help="nano, tiny, small or base.")] = "tiny",
    data: Annotated[str, typer.Option(help="scenes: the built-in procedural world.")] = "scenes",
    size: Annotated[
        str | None, typer.Option(help="128 or 128x256; the configuration's own by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; the stage's own by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images (vae) or captions (flow) per step.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Drop the state in --out and start over.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of initial weights, data and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the best there is.")] = "auto",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="bfloat16 autocast: faster where the CPU or GPU has it.")
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="flow: torch.compile the denoiser; faster after minutes of compiling."
        ),
    ] = False,
    decoder_only: Annotated[
        bool,
        typer.Option(
            "--decoder-only",
            help="vae: fine-tune the finished decoder; latents, and so the flow, stay as they are.",
        ),
    ] = False,
    crop: Annotated[
        int | None, typer.Option(help="vae: train on square windows of this side instead of whole images.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saved states.")] = 500,
    sample_every: Annotated[int, typer.Option(min=1, help="Steps between sample sheets.")] = 2000,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
    ] = False,
) -> None:
    """Train one stage, watch it in RUN/STAGE (log.jsonl, samples, loss.png), kill and --resume it at will."""
    from microforge.training.command import TrainRequest, run_stage

    request = TrainRequest(
        stage=stage.value, config=config, out=out, data=data, size=size, steps=steps, batch=batch,
        resume=resume, force=force, seed=seed, device=device, bf16=bf16, compile=compile,
        decoder_only=decoder_only, crop=crop, threads=threads,
        save_every=save_every, sample_every=sample_every,
    )  # fmt: skip
    result = run_stage(request)
    if json:
        print_json(result)
    else:
        print(result["checkpoint"])


def main() -> None:
    """Entry point of ``mf-train``."""
    run(app)


if __name__ == "__main__":
    main()
