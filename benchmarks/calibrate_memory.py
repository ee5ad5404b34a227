"""Comparison of predicted with measured peaks of memory: ``python benchmarks/calibrate_memory.py BUNDLE... [--out FILE]``.

The constants in ``microforge_export.memory.fit.OVERHEADS`` are fitted to this table: change them until every ratio is
within the limit, and update docs/devices.md. This is a script outside of the packages, because the packages of
benchmarks and export do not import one another. Exit code 1 when a prediction is off by more than ``--within``.

For executorch only the memory of the model is compared: its Python binding loads torch, which a phone does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from microforge.bundle.files import Bundle, load_bundle
from microforge.bundle.measurements import Loading
from microforge.io.atomic import atomic_bytes, check_output
from microforge.io.console import DONE, FELL_SHORT, command_app, run, say_error
from microforge_benchmarks.measure.latency import MeasurementFailure, MeasurementSettings, measure_memory
from microforge_export.memory.fit import MODES, OVERHEADS, peaks, predict

MB = 1_000_000
app = command_app("Compare predicted with measured memory.")


#: Memory of a process with ONNX Runtime and the tokenizer, but no network: replaces ExecuTorch's, which has torch.
ENGINE_LOADED = 77 * MB


@dataclass(frozen=True)
class MemoryComparison:
    """Peak memory in bytes of a process: predicted, and measured by the kernel."""

    model: str
    target: str
    precision: str
    size: str
    loading: Loading
    predicted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured


def compare_memory(
    bundle: Bundle, target: str, size: tuple[int, int], threads: int
) -> Iterator[MemoryComparison]:
    """Compare both loading modes of one engine and size; a failed measurement is reported and left out."""
    predicted = peaks(predict(bundle, target, size), OVERHEADS[target].process)
    for loading in MODES:
        settings = MeasurementSettings(target, size, threads, runs=1, loading=loading)
        result = measure_memory(bundle, settings)
        if isinstance(result, MeasurementFailure):
            say_error(f"{bundle.path}: {result.reason}")
            continue
        if result.peak_rss is None or result.base is None:
            say_error(f"{bundle.path}: the kernel does not report memory")
            continue
        measured = result.peak_rss
        if target == "executorch":
            measured = measured - result.base + ENGINE_LOADED
        yield MemoryComparison(
            bundle.manifest.model.name, target, bundle.target(target).precision, str(bundle.size(size)), loading,
            max(predicted[loading].values()), measured,
        )  # fmt: skip


@app.command(epilog="Example: python benchmarks/calibrate_memory.py nano.mfb tiny.mfb --within 0.1")
def calibrate(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles made by mf-export build.", metavar="BUNDLE...")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    within: Annotated[float, typer.Option(min=0, help="Largest allowed error, as a fraction.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> int:  # fmt: skip
    """Measure every size and engine of the bundles in new processes, and compare with the prediction."""
    if out is not None:
        check_output(out, force)
    comparisons: list[MemoryComparison] = []
    for path in bundles:
        bundle = load_bundle(path)
        for target in (name for name in bundle.manifest.targets if name in OVERHEADS):
            for entry in bundle.manifest.sizes:
                comparisons += compare_memory(bundle, target, (entry.height, entry.width), threads)
    table = Table("model", "target", "precision", "size", "loading", "predicted MB", "measured MB", "ratio")
    for item in comparisons:
        counts = (f"{item.predicted / MB:.1f}", f"{item.measured / MB:.1f}", f"{item.ratio:.3f}")
        table.add_row(item.model, item.target, item.precision, item.size, item.loading, *counts)
    Console().print(table)
    if out is not None:
        text = json.dumps([{**asdict(item), "ratio": round(item.ratio, 4)} for item in comparisons], indent=1)
        atomic_bytes(out, f"{text}\n".encode(), force)
    return DONE if comparisons and all(abs(item.ratio - 1) <= within for item in comparisons) else FELL_SHORT


if __name__ == "__main__":
    run(app)
