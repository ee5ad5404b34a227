"""Students beside their teacher: the same prompts from the same noise, judged by the oracle and by distance.

    python -m microforge_benchmarks.evaluate.students TEACHER STUDENT... --prompts 500 --out compare.json

The reference is the teacher on its own grid, guided. Beside it stands the teacher cut down to each student's number of
steps. Writes JSON, and a plot beside it.
"""

from __future__ import annotations

import io
import json as json_module
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microforge.errors import OutputError, SpecError, missing_extra
from microforge.io.console import command_app, print_json, run, say

if TYPE_CHECKING:
    from microforge.data.world.captions import Prompt
    from microforge.evaluation.generation import Images
    from microforge.pipeline import MicroForgePipeline

app = command_app("Compare distilled students with their teacher.")
FORMAT = 1
BATCH = 16


@dataclass(frozen=True)
class Contender:
    """A checkpoint drawn in ``steps`` steps; None is its own grid."""

    name: str
    folder: Path
    steps: int | None = None


@dataclass(frozen=True)
class Drawn:
    """All images (N, H, W, 3) of a contender, whether each shows its prompt, and what they cost."""

    images: Images
    correct: tuple[bool, ...]
    scores: Mapping[str, Any]
    evaluations: float  # of the denoiser, per image
    seconds: float  # of CPU, per image


def draw_all(
    pipeline: MicroForgePipeline, contender: Contender, prompts: Sequence[Prompt], seed: int
) -> Drawn:
    """Draw and judge ``prompts``; prompt i has the noise of seed + i whoever draws."""
    import numpy as np

    from microforge.evaluation.generation import evaluate, summarize, to_uint8_images

    evaluations, seconds = 0, 0.0

    def count(module: Any, given: Any, result: Any) -> None:
        nonlocal evaluations
        evaluations += len(given[0])

    def draw(group: Sequence[Prompt], first: int) -> Images:
        nonlocal seconds
        start = time.process_time()
        texts = [prompt.text for prompt in group]
        images = pipeline.text2img(texts, num_steps=contender.steps, seed=first)
        seconds += time.process_time() - start
        return to_uint8_images(images)

    hook = pipeline.denoiser.register_forward_hook(count)
    results = list(evaluate(draw, prompts, seed, BATCH))
    hook.remove()
    total = len(prompts)
    return Drawn(
        np.stack([one.image for one in results]), tuple(one.verdict.correct for one in results),
        summarize(results), evaluations / total, seconds / total,
    )  # fmt: skip


def figures(drawn: Drawn, reference: Drawn) -> dict[str, Any]:
    """Scores of a contender and its paired differences to the reference.

    ``psnr_db`` is of each image to the reference's from the same noise; ``difference`` of the accuracies, with the
    95 % interval of the mean of paired differences.
    """
    import numpy as np

    from microforge.evaluation.generation import to_float_images
    from microforge.evaluation.metrics import psnr

    levels = psnr(to_float_images(drawn.images), to_float_images(reference.images)).clamp(max=100.0)
    pairs = np.array(drawn.correct, float) - np.array(reference.correct, float)
    spread = 1.96 * float(pairs.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    mean = float(pairs.mean())
    return {
        "accuracy": drawn.scores["overall"],
        "categories": {name: part["accuracy"] for name, part in drawn.scores["categories"].items()},
        "facts": drawn.scores["facts"],
        "split": {name: part["overall"] for name, part in drawn.scores["split"].items()},
        "difference": {"mean": round(mean, 4), "low": round(mean - spread, 4), "high": round(mean + spread, 4)},
        "psnr_db": {"mean": round(float(levels.mean()), 3), "median": round(float(levels.median()), 3)},
        "evaluations": round(drawn.evaluations, 3), "cpu_seconds": round(drawn.seconds, 4),
    }  # fmt: skip


def plan_drift(pipeline: MicroForgePipeline, texts: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """How far the plan after the last step moves when network and plan are in half precision; relative errors.

    As on a device: the latent stays in float32 between the steps, the plan is handed on as it came out, and the SSM
    mixers compute in float32 with half-precision weights (their sums over tokens pass what float16 holds, see
    ``microforge_export.targets.base.coreml.precision``). None where half precision overflows all the same.
    """
    import copy

    import torch

    exact = _final_plan(pipeline, texts, seed, torch.float32)
    rough = _final_plan(_halved(copy.deepcopy(pipeline)), texts, seed, torch.float16)
    errors = (rough - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    finite = bool(errors.isfinite().all())
    mean, worst = (
        (round(float(value), 5) for value in (errors.mean(), errors.max())) if finite else (None, None)
    )
    return {"prompts": len(texts), "mean": mean, "max": worst}


def _halved(pipeline: MicroForgePipeline) -> MicroForgePipeline:
    """``pipeline``, changed in place: half precision around its SSM mixers."""
    from microforge.backbone import BiSSM

    pipeline.half()
    for module in pipeline.backbone.modules():
        if isinstance(module, BiSSM):
            module.float()
            module.register_forward_pre_hook(lambda module, given: (given[0].float(), *given[1:]))
            module.register_forward_hook(lambda module, given, result: result.half())
    return pipeline


def _final_plan(pipeline: MicroForgePipeline, texts: Sequence[str], seed: int, dtype: Any) -> Any:
    """The plan (B, K, D) after the last step of the prompts' own branch, float32."""
    import itertools

    import numpy as np
    import torch

    from microforge.noise import standard_normal
    from microforge.sampling import euler_step

    spec = pipeline.spec
    assert pipeline.tokenizer is not None
    rows = [pipeline.tokenizer.encode(text, "generate", spec.text_encoder.max_length) for text in texts]
    ids = torch.from_numpy(np.stack([row.ids for row in rows]))
    mask = torch.from_numpy(np.stack([row.mask for row in rows])).to(dtype)
    shape = (spec.latent_channels, *(side // spec.vae.downsample for side in spec.native_size))
    z = torch.from_numpy(np.stack([standard_normal(seed + index, shape) for index in range(len(texts))]))
    with torch.no_grad():
        text, pooled = pipeline.text_encoder.encode(ids, mask)
        plan = pipeline.planner.empty(len(texts), z.device, dtype)
        has_plan = torch.zeros(len(texts), dtype=dtype)
        for t, t_next in itertools.pairwise(spec.sampler.timesteps):
            times = torch.full((len(texts),), t, dtype=dtype)
            velocity, plan = pipeline.denoiser(z.to(dtype), times, text, mask, pooled, plan, has_plan)
            has_plan = torch.ones_like(has_plan)
            z = euler_step(z, velocity.float(), t, t_next)
    return plan.float()


def task_figures(
    pipeline: MicroForgePipeline, tasks: Sequence[str], count: int, seed: int
) -> dict[str, dict[str, Any]]:
    """What ``mf-eval --task`` measures, for every task with a source that ``pipeline`` knows."""
    from functools import partial

    from microforge.evaluation.editing import EditRun, evaluate_task
    from microforge.training.stages.edit import drawn

    found = {}
    for task in tasks:
        say(f"  {task}")

        found[task] = evaluate_task(
            task, partial(drawn, pipeline, task), EditRun(count, pipeline.spec.native_size, seed)
        )
    return found


def contenders_of(teacher: Path, students: Sequence[Path]) -> list[Contender]:
    """The reference first, then the teacher at each student's number of steps, then the students.

    Raises:
        SpecError: for a student that was not distilled, or a teacher that was.
    """
    from microforge.checkpoint import read_checkpoint

    if read_checkpoint(teacher).spec.sampler.guidance_distilled:
        raise SpecError(f"{teacher} was distilled itself; the first argument is the teacher")
    counts, own = set(), []
    for folder in students:
        sampler = read_checkpoint(folder).spec.sampler
        if not sampler.guidance_distilled:
            raise SpecError(f"{folder} was not distilled; the teacher comes first and once")
        counts.add(len(sampler.timesteps) - 1)
        own.append(Contender(folder.name, folder))
    cut = [Contender(f"teacher at {count}", teacher, count) for count in sorted(counts)]
    return [Contender("teacher", teacher), *cut, *own]


def compare(
    contenders: Sequence[Contender], prompts: int, seed: int, examples: int = 0
) -> dict[str, dict[str, Any]]:
    """Figures by contender, in order; the first is what the others are compared with.

    Args:
        examples: of each task with a source; 0 leaves those tasks out.
    """
    from microforge.data.world.captions import evaluation_prompts
    from microforge.pipeline import MicroForgePipeline

    asked = evaluation_prompts(prompts, seed)
    reference: Drawn | None = None
    found: dict[str, dict[str, Any]] = {}
    for contender in contenders:
        say(f"drawing {contender.name}")
        pipeline = MicroForgePipeline.from_pretrained(contender.folder)
        drawn = draw_all(pipeline, contender, asked, seed)
        reference = drawn if reference is None else reference
        entry = {"checkpoint": str(contender.folder), "steps": len(pipeline.grid(contender.steps)) - 1}
        entry |= figures(drawn, reference)
        if contender.steps is None and pipeline.spec.sampler.guidance_distilled:
            entry["plan_drift"] = plan_drift(pipeline, [prompt.text for prompt in asked[:BATCH]], seed)
        tasks = [task for task in pipeline.spec.tasks if task != "generate"] if examples else []
        if tasks and contender.steps is None:
            entry["tasks"] = task_figures(pipeline, tasks, examples, seed)
        found[contender.name] = entry
    return found


def plot(found: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Accuracy with its Wilson interval, and PSNR to the reference, a bar for each contender; PNG bytes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "bench") from None
    figure = Figure(figsize=(8.5, 1.2 + 0.35 * len(found)), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    counts = {name: round(entry["evaluations"]) for name, entry in found.items()}
    labels = [f"{name} ({count} evaluation{'' if count == 1 else 's'})" for name, count in counts.items()]
    rates = [entry["accuracy"] for entry in found.values()]
    middle = [100 * rate["accuracy"] for rate in rates]
    ends = [[100 * (rate["accuracy"] - rate["low"]) for rate in rates], [100 * (rate["high"] - rate["accuracy"]) for rate in rates]]  # fmt: skip
    left.barh(labels, middle, xerr=ends, color="#3b6ea5", capsize=3)
    left.set_xlabel("prompts drawn correctly, %, 95 % interval")
    levels = [0.0 if index == 0 else entry["psnr_db"]["mean"] for index, entry in enumerate(found.values())]
    right.barh(labels, levels, color="#5f9e6e")
    right.set_xlabel("PSNR to the first from the same noise, dB")
    left.invert_yaxis()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


@app.command(
    epilog="Example: python -m microforge_benchmarks.evaluate.students pretrained runs/nano-4 --out compare.json"
)
def main(
    teacher: Annotated[Path, typer.Argument(help="The teacher's checkpoint, or pretrained.")],
    students: Annotated[list[Path], typer.Argument(help="Checkpoints made by mf-export distill.")],
    out: Annotated[Path, typer.Option(help="JSON file to write; the plot goes beside it, as .png.")],
    prompts: Annotated[int, typer.Option(min=2, help="How many prompts.")] = 500,
    examples: Annotated[int, typer.Option(min=0, help="Of each task with a source.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts, and of the first image.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing outputs.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the figures as the last line of stdout.")
    ] = False,
) -> None:
    """Draw the same prompts from the same noise with all of them, and write how they compare."""
    from microforge.checkpoint import SHIPPED_TEACHER
    from microforge.io.atomic import atomic_bytes, check_output

    if out.suffix.lower() != ".json":
        raise OutputError(f"--out is {out}; the figures are JSON, give a name that ends in .json")
    for path in (out, out.with_suffix(".png")):
        check_output(path, force)
    folder = SHIPPED_TEACHER if str(teacher) == "pretrained" else teacher
    found = compare(contenders_of(folder, students), prompts, seed, examples)
    report = {"format": FORMAT, "prompts": prompts, "seed": seed, "examples": examples, "contenders": found}
    atomic_bytes(out.with_suffix(".png"), plot(found), force)
    atomic_bytes(out, (json_module.dumps(report, indent=1) + "\n").encode(), force)
    _print_table(found)
    if json:
        print_json(report)
    else:
        print(out.absolute())


def _print_table(found: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "",
        "steps",
        "evaluations",
        "accuracy",
        "95 % interval",
        "less the first's",
        "PSNR to it",
        "plan drift",
    )
    for name, entry in found.items():
        rate, pair = entry["accuracy"], entry["difference"]
        drift = entry.get("plan_drift", {}).get("mean")
        table.add_row(
            name, str(entry["steps"]), f"{entry['evaluations']:g}", f"{100 * rate['accuracy']:.1f} %",
            f"{100 * rate['low']:.1f} - {100 * rate['high']:.1f}",
            f"{100 * pair['mean']:+.1f} ({100 * pair['low']:+.1f} to {100 * pair['high']:+.1f})",
            f"{entry['psnr_db']['mean']:.2f} dB", "-" if drift is None else f"{100 * drift:.2f} %",
        )  # fmt: skip
    Console(stderr=True).print(table)


if __name__ == "__main__":
    run(app)
