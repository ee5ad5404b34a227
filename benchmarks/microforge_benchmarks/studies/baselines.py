"""One bundle beside PyTorch and beside other models, in one run: every round times each of them once.

A busy or hot machine then disturbs all alike, and ratios are taken within a round. The order turns round every
time, so that nobody always runs on a cache that the same other one has filled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from microforge.bundle.files import Bundle
from microforge.bundle.measurements import spread
from microforge.errors import BundleError, SpecError, missing_extra
from microforge_benchmarks.measure.latency import Died, Settings, environment, measure_memory
from microforge_benchmarks.measure.worker import PROMPT
from microforge_benchmarks.studies.baseline_models import RIVALS, RivalDrawing, exported, peak_of

OURS = "microforge"
TORCH = ("torch-eager", "torch-compile")
NAMES = (*TORCH, *RIVALS)
Claim = Literal["same image", "compute and memory only"]
Draw = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """``others`` from ``NAMES``; ``checkpoint`` is the bundle's own (None: the shipped one), for PyTorch."""

    others: tuple[str, ...]
    cache: Path
    checkpoint: Path | None = None
    size: tuple[int, int] | None = None
    rounds: int = 10
    threads: int = 1


def check_names(text: str) -> tuple[str, ...]:
    """Names with commas between them.

    Raises:
        SpecError: for an unknown one, or none.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        raise SpecError(f"--with is {text!r}; write some of: {', '.join(NAMES)}")
    return names


def interleaved(draws: Mapping[str, Draw], rounds: int) -> dict[str, list[float]]:
    """Seconds of every draw in every round, in the order of the rounds; one warm-up of each goes before."""
    for draw in draws.values():
        draw()
    times: dict[str, list[float]] = {name: [] for name in draws}
    for number in range(rounds):
        order = list(draws) if number % 2 == 0 else list(draws)[::-1]
        for name in order:
            start = time.perf_counter()
            draws[name]()
            times[name].append(time.perf_counter() - start)
    return times


def run_contest(bundle: Bundle, contest: Contest, say: Callable[[str], None]) -> dict[str, Any]:
    """Load everybody, time them in turn, and measure the memory of those that ONNX Runtime runs.

    Raises:
        BundleError, CheckpointError: when the bundle cannot draw, or the checkpoint is not the bundle's.
        MissingExtraError: for what PyTorch or the rivals need.
    """
    from microforge_runtimes.generator import Generator

    entry = bundle.size(contest.size)
    size, steps = (entry.height, entry.width), bundle.manifest.sampler.steps
    folders = {}
    for name in (name for name in contest.others if name in RIVALS):
        say(f"{name}: exporting for {entry.size}, once")
        folders[name] = exported(name, size, contest.cache)
    with Generator(bundle, "onnx", size, contest.threads, keep_loaded=True) as generator:
        draws: dict[str, Draw] = {OURS: lambda: generator.generate(PROMPT)}
        draws |= _torch_draws(bundle, contest, size)
        for name, folder in folders.items():
            say(f"{name}: loading")
            draws[name] = RivalDrawing(folder, steps, contest.threads)
        say(f"timing {', '.join(draws)} in turn")
        times = interleaved(draws, contest.rounds)
    del draws
    peaks: dict[str, int | None] = {OURS: _own_peak(bundle, contest)}
    for name, folder in folders.items():
        say(f"{name}: memory")
        peaks[name] = peak_of(folder, steps, contest.threads)
    return summary(bundle, contest, steps, times, peaks)


def summary(
    bundle: Bundle, contest: Contest, steps: int, times: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int | None],
) -> dict[str, Any]:  # fmt: skip
    """What was measured as JSON values; a ratio is another's time over ours in the same round."""
    entries = []
    for name, values in times.items():
        ratios = sorted(theirs / ours for theirs, ours in zip(values, times[OURS], strict=True))
        entries.append({
            "name": name, "claim": claim(name), "seconds": spread(values).model_dump(),
            "peak_rss": peaks.get(name), "ratio": statistics.median(ratios),
            "ratio_low": ratios[len(ratios) // 4], "ratio_high": ratios[-1 - len(ratios) // 4],
        })  # fmt: skip
    return {
        "bundle": bundle.id, "model": str(bundle.manifest.model.get("name")),
        "precision": bundle.target("onnx").precision, "size": str(bundle.size(contest.size)), "steps": steps,
        "rounds": contest.rounds, "threads": contest.threads, "entries": entries,
        "environment": environment(Settings()).model_dump(mode="json"),
    }  # fmt: skip


def claim(name: str) -> Claim:
    """What an entry may be compared for."""
    return "compute and memory only" if name in RIVALS else "same image"


def _own_peak(bundle: Bundle, contest: Contest) -> int | None:
    found = measure_memory(bundle, Settings("onnx", contest.size, contest.threads, loading="resident"))
    return None if isinstance(found, Died) else found.peak_rss


def _torch_draws(bundle: Bundle, contest: Contest, size: tuple[int, int]) -> dict[str, Draw]:
    """The same drawing in PyTorch, as it is and with its networks compiled."""
    names = [name for name in contest.others if name in TORCH]
    if not names:
        return {}
    try:
        import torch
    except ImportError:
        raise missing_extra("torch", "train") from None
    from microforge.checkpoint import SHIPPED_STUDENT, read_checkpoint
    from microforge.io.quiet import quiet
    from microforge.pipeline import MicroForgePipeline

    torch.set_num_threads(contest.threads)
    folder = SHIPPED_STUDENT if contest.checkpoint is None else contest.checkpoint
    if read_checkpoint(folder).sha256 != bundle.manifest.provenance.checkpoint_sha256:
        raise BundleError(f"{bundle.path} was not built from {folder}; give its own with --checkpoint")
    draws: dict[str, Draw] = {}
    for name in names:
        pipeline = MicroForgePipeline.from_pretrained(folder).requires_grad_(False)
        if name == "torch-compile":
            for module in (pipeline.backbone, pipeline.planner, pipeline.vae.decoder):
                module.compile()
            with quiet("torch._dynamo", "torch._inductor"):  # compiles now, with remarks about our caches
                pipeline.text2img(PROMPT, *size)
        draws[name] = lambda pipeline=pipeline: pipeline.text2img(PROMPT, *size)  # type: ignore[misc]
    return draws


@dataclass(frozen=True)
class Line:
    """One entry as the table shows it."""

    name: str
    seconds: str
    times: str
    memory: str
    claim: str


def lines(values: Mapping[str, Any]) -> list[Line]:
    """The entries, ours first."""
    return [
        Line(
            entry["name"], f"{entry['seconds']['median']:.3f}",
            f"{entry['ratio']:.2f} ({entry['ratio_low']:.2f} to {entry['ratio_high']:.2f})",
            "-" if entry["peak_rss"] is None else f"{entry['peak_rss'] / 1e6:,.0f}", entry["claim"],
        )
        for entry in values["entries"]
    ]  # fmt: skip
