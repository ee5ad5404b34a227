"""``mf-export distill``: trains a few-step student of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import print_json


def distill(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Folder of the teacher; the shipped teacher when omitted.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint of the student to write; its run is kept in OUT.run.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from a student of a teacher before this one, same VAE; from the teacher's own weights by default.")] = None,
    init_teacher: Annotated[Path | None, typer.Option(help="The teacher that --init was distilled from: what the new one has learned since is added to the student's weights first.")] = None,
    move: Annotated[float, typer.Option(help="With --init-teacher: how much of that is added; less keeps more of what the student can.")] = 1.0,
    steps: Annotated[int, typer.Option(help="Steps of the student: 1, 2, 4 or 8.")] = 4,
    skip: Annotated[int | None, typer.Option(help="Segment-CD: the target lies so many teacher steps on; a whole window when omitted.")] = None,
    updates: Annotated[int | None, typer.Option(help="Optimizer updates; the configuration's own by default. 0, with --init-teacher: move the student after its teacher and train nothing.")] = None,
    batch: Annotated[int | None, typer.Option(help="Drawings per update, for each process; each gives STEPS samples.")] = None,
    drawings: Annotated[int | None, typer.Option(help="Teacher drawings to learn from, of all tasks.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The configuration's own by default.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or muon; the configuration's own by default.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights that are written; 0.999 by default, less for a short run.")] = None,
    anchor: Annotated[float | None, typer.Option(help="Share of the drawings that keep the flow loss; 0.1 by default.")] = None,
    own: Annotated[float | None, typer.Option("--own-rollout", help="Share of the updates, the last ones, that start windows where the student itself arrives; 0.1 by default.")] = None,
    perturb: Annotated[float | None, typer.Option(help="Noise on where windows start, up to this standard deviation, for a student of many updates (0.15); none by default.")] = None,
    int8_grid: Annotated[bool, typer.Option("--int8-grid", help="Round what is written to the grid of INT8 weights, so that quantizing them loses nothing.")] = False,
    generate: Annotated[float | None, typer.Option("--generate-share", help="Share of plain generation among the drawings of a teacher that knows more; the edit stage's mix by default.")] = None,
    true_targets: Annotated[str | None, typer.Option(help="Tasks with a source, with commas between them, that learn the true results of the data instead of the teacher's guided drawings: super-resolve has one right result, and the drawings cost three branches a step.")] = None,
    drawer: Annotated[list[str] | None, typer.Option(metavar="TASK=CHECKPOINT", help="Who draws what is learned of a task, in the teacher's place; once for each task. A student of before keeps, or gives back, what it could do, and draws in its few steps.")] = None,
    faithful: Annotated[bool, typer.Option("--faithful", help="Learn only from drawings in which the oracle finds what their captions, or the true results of edits, say; of the built-in world alone.")] = False,
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width); the trained size by default.")] = None,
    data: Annotated[str, typer.Option(help="Where captions come from: scenes, a folder, or .tar shards, as in mf-train.")] = "scenes",
    edits: Annotated[str | None, typer.Option(help="A teacher that edits, with --data of your own: folder of edit triples.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the teacher's drawings, to share between runs; in OUT.run by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of captions, noise and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps; auto takes the best there is.")] = "auto",
    bf16: Annotated[bool, typer.Option("--bf16", help="bfloat16 autocast, for the teacher's drawings too.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the student, and the teacher while it draws.")] = False,
    accumulate: Annotated[int | None, typer.Option(help="Split each process's batch into so many.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what disk and memory it would take; write nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Drop the run in OUT.run, replace OUT; drawings that fit are kept.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Updates between saved states.")] = 500,
    sample_every: Annotated[int, typer.Option(min=1, help="Updates between sample sheets.")] = 2000,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Teach a student to draw in a few steps what the checkpoint draws in 32, guidance folded in."""
    from microforge.training.distillation.command import DistillRequest, run_distill
    from microforge.training.engine.distributed import speaks

    request = DistillRequest(
        checkpoint=checkpoint, out=out, init=init, init_teacher=init_teacher, move=move, steps=steps, skip=skip, updates=updates, batch=batch, drawings=drawings,
        learning_rate=learning_rate, optimizer=optimizer, ema=ema, anchor=anchor, own=own, perturb=perturb,
        int8_grid=int8_grid, generate=generate, faithful=faithful, true_targets=true_targets, drawers=tuple(drawer or ()),
        size=size, data=data, edits=edits, cache=cache, resume=resume, force=force, dry_run=dry_run, seed=seed, device=device, bf16=bf16,
        compile=compile, accumulate=accumulate, threads=threads,
        save_every=save_every, sample_every=sample_every, tensorboard=tensorboard,
    )  # fmt: skip
    result = run_distill(request)
    if not speaks():
        return
    if json:
        print_json(result)
    elif "checkpoint" in result:
        print(result["checkpoint"])
