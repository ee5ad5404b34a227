"""``mf-train``: thin; everything heavy is imported inside the command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run

app = command_app(
    "Train MicroForge, one stage at a time (vae, then flow, then kd, edit, reward and rewrite if you like) or all of them."
)

EXAMPLES = """Examples:

mf-train vae --config nano --out runs/nano --bf16   (first: images to latents)

mf-train flow --config nano --out runs/nano --bf16   (then: captions to latents; runs/nano/flow/checkpoint is the model)

mf-train kd --config nano --out runs/nano --teacher runs/big/flow/checkpoint   (optional: learn from a larger model)

mf-train edit --config nano --out runs/nano --bf16   (optional, after flow: edit, inpaint and super-resolve too)

mf-train reward --init pretrained --teacher student --out runs/mine --bf16   (optional: learn from what the oracle finds right)

mf-train rewrite --init pretrained --teacher student --out runs/mine --bf16   (optional: read a vague prompt as a clear one)

mf-train all --config tiny --out runs/tiny   (the whole curriculum; --settings FILE.toml for your own)

mf-train flow --init pretrained --out runs/mine   (go on from finished weights)

mf-train flow --config base --size 512 --out runs/base --bf16 --dry-run   (does it fit? trains nothing)

accelerate launch --num_processes 2 -m microforge.training.cli flow --config tiny --out runs/tiny
"""

_HOW, _WHAT, _KEEP = "How it runs", "What is trained", "What is kept"


class StageName(StrEnum):
    """What to train."""

    vae = "vae"
    flow = "flow"
    kd = "kd"
    edit = "edit"
    reward = "reward"
    rewrite = "rewrite"
    all = "all"


@app.command(epilog=EXAMPLES)
def train(
    stage: Annotated[StageName, typer.Argument(help="vae first, then flow in the same --out; all: everything.")],
    out: Annotated[Path, typer.Option(help="Run folder; each stage keeps its state in a folder of its own.")],
    config: Annotated[str | None, typer.Option(
        help="nano, tiny, small or base; that of --init, else tiny.", rich_help_panel=_WHAT)] = None,
    data: Annotated[str, typer.Option(
        help="scenes (the built-in world), stickers:FOLDER, a mixture (scenes+3*stickers:FOLDER), a folder of captioned images, or .tar shards: SHARD.tar, 'x/{000..127}.tar'.",
        rich_help_panel=_WHAT)] = "scenes",
    edits: Annotated[str | None, typer.Option(
        help="edit: a folder with metadata.jsonl of source, instruction, target; the built-in edits by default.",
        rich_help_panel=_WHAT)] = None,
    flip: Annotated[bool, typer.Option(
        "--flip", help="Mirror images of your own; captions with left and right become wrong.", rich_help_panel=_WHAT,
    )] = False,
    random_crop: Annotated[bool, typer.Option(
        "--random-crop", help="vae: move the crop over your images instead of keeping their centre.",
        rich_help_panel=_WHAT)] = False,
    size: Annotated[str | None, typer.Option(
        help="128 or 128x256; the configuration's own by default.", rich_help_panel=_WHAT)] = None,
    steps: Annotated[int | None, typer.Option(
        help="Optimizer steps; the stage's own by default.", rich_help_panel=_WHAT)] = None,
    minutes: Annotated[float | None, typer.Option(
        help="Instead of --steps: as many as fit, the learning rate's fall included.", rich_help_panel=_WHAT)] = None,
    batch: Annotated[int | None, typer.Option(
        help="Images (vae) or captions (the other stages) per step, for each process.", rich_help_panel=_WHAT)] = None,
    init: Annotated[str | None, typer.Option(
        help="Start from a checkpoint's weights: a folder, or pretrained.", rich_help_panel=_WHAT)] = None,
    teacher: Annotated[str | None, typer.Option(
        help="kd: the checkpoint to learn from. edit: the one whose generation is kept. reward, rewrite: the one that draws, best a few-step student of --init (student: the shipped one); --init by default.", rich_help_panel=_WHAT)] = None,
    tokenizer: Annotated[Path | None, typer.Option(
        help="vae, flow: tokenizer.json of a new text encoder (mf-data tokenizer); that of the weights it stands on by default.",
        rich_help_panel=_WHAT)] = None,
    settings: Annotated[Path | None, typer.Option(
        help="all: a curriculum as TOML instead of the configuration's own.", rich_help_panel=_WHAT)] = None,
    decoder_only: Annotated[bool, typer.Option(
        "--decoder-only", rich_help_panel=_WHAT,
        help="vae: fine-tune the finished decoder; latents, and so the flow, stay as they are.")] = False,
    crop: Annotated[int | None, typer.Option(
        help="vae: train on square windows of this side instead of whole images.", rich_help_panel=_WHAT)] = None,
    optimizer: Annotated[str | None, typer.Option(
        help="adamw, or (all but vae) muon for the hidden matrices.", rich_help_panel=_WHAT)] = None,
    seed: Annotated[int, typer.Option(
        min=0, help="Of initial weights, data and noise.", rich_help_panel=_WHAT)] = 0,
    device: Annotated[str, typer.Option(
        help="cpu, cuda, mps; auto takes the best there is.", rich_help_panel=_HOW)] = "auto",
    bf16: Annotated[bool, typer.Option(
        "--bf16", rich_help_panel=_HOW, help="bfloat16 autocast: faster where the CPU or GPU has it.")] = False,
    accumulate: Annotated[int | None, typer.Option(
        help="Split each process's batch into so many: less memory, same result.", rich_help_panel=_HOW)] = None,
    checkpoint_blocks: Annotated[bool, typer.Option(
        "--checkpoint-blocks", rich_help_panel=_HOW,
        help="Compute blocks twice instead of storing them: much less memory, slower.")] = False,
    compile: Annotated[bool, typer.Option(
        "--compile", rich_help_panel=_HOW,
        help="All but vae: torch.compile the denoiser; faster after minutes of compiling.")] = False,
    threads: Annotated[int | None, typer.Option(
        min=1, help="CPU threads; all by default.", rich_help_panel=_HOW)] = None,
    workers: Annotated[int | None, typer.Option(
        min=0, help="Processes that make the built-in world's images ahead; a GPU gets one per core, a CPU none.",
        rich_help_panel=_HOW)] = None,
    dry_run: Annotated[bool, typer.Option(
        "--dry-run", rich_help_panel=_HOW,
        help="Say what it would take in parameters and memory, and train nothing.")] = False,
    resume: Annotated[bool, typer.Option(
        "--resume", help="Go on from the state in --out.", rich_help_panel=_KEEP)] = False,
    force: Annotated[bool, typer.Option(
        "--force", help="Drop the state in --out and start over.", rich_help_panel=_KEEP)] = False,
    save_every: Annotated[int, typer.Option(
        min=1, help="Steps between saved states.", rich_help_panel=_KEEP)] = 500,
    sample_every: Annotated[int, typer.Option(
        min=1, help="Steps between sample sheets.", rich_help_panel=_KEEP)] = 2000,
    tensorboard: Annotated[bool, typer.Option(
        "--tensorboard", help="Write TensorBoard's files too.", rich_help_panel=_KEEP)] = False,
    json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Train one stage, watch it in RUN/STAGE (log.jsonl, samples, loss.png), kill and --resume it at will."""
    from microforge.training.engine.distributed import speaks
    from microforge.training.runs.curriculum_run import run_all
    from microforge.training.runs.plan import TrainRequest
    from microforge.training.runs.stage_run import run_stage

    request = TrainRequest(
        stage=stage.value, out=out, config=config, settings=settings, data=data, edits=edits, flip=flip,
        random_crop=random_crop, size=size, steps=steps, batch=batch,
        init=init, teacher=teacher, tokenizer=tokenizer, resume=resume, force=force, dry_run=dry_run, seed=seed, device=device, bf16=bf16,
        compile=compile, accumulate=accumulate, checkpoint_blocks=checkpoint_blocks, optimizer=optimizer,
        decoder_only=decoder_only, crop=crop, threads=threads, workers=workers, minutes=minutes,
        save_every=save_every, sample_every=sample_every, tensorboard=tensorboard,
    )  # fmt: skip
    result = run_all(request) if request.stage == "all" else run_stage(request)
    if not speaks():
        return
    if json:
        print_json(result)
    elif "checkpoint" in result:
        print(result["checkpoint"])


def main() -> None:
    """Entry point of ``mf-train``."""
    run(app)


if __name__ == "__main__":
    main()
