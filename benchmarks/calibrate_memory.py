"""Predicted beside measured peaks of bundles: ``python benchmarks/calibrate_memory.py BUNDLE... [--out FILE]``.

The constants of ``microforge_export.memory.fit.OVERHEADS`` come from this table: change them until every ratio lies
within the limit, and say in docs/devices.md what was measured. A script beside the package, since the packages
of benchmarks and export do not import one another. Exit 1 when a prediction is further off than ``--within``.

For executorch only what the model adds is compared: its binding for Python loads torch, which a phone does not.
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
from microforge_benchmarks.measure.latency import Died, Settings, measure_memory
from microforge_export.memory.fit import MODES, OVERHEADS, peaks, predict

MB = 1_000_000
app = command_app("Predicted beside measured memory.")


@dataclass(frozen=True)
class Comparison:
    """Bytes of a whole process at its worst, by the prediction and by the kernel."""

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


def compare(bundle: Bundle, target: str, size: tuple[int, int], threads: int) -> Iterator[Comparison]:
    """Both loading modes of one engine and size; a measurement that dies is said and left out."""
    process = OVERHEADS[target].process
    predicted = peaks(predict(bundle, target, size), process)
    for loading in MODES:
        found = measure_memory(bundle, Settings(target, size, threads, runs=1, loading=loading))
        if isinstance(found, Died) or found.peak_rss is None or found.base is None:
            say_error(
                f"{bundle.path}: {found.reason if isinstance(found, Died) else 'no memory is told here'}"
            )
            continue
        measured = found.peak_rss
        if target == "executorch":
            measured = measured - found.base + ENGINE_LOADED
        yield Comparison(
            str(bundle.manifest.model.get("name")), target, bundle.target(target).precision, str(bundle.size(size)), loading,
            max(predicted[loading].values()), measured,
        )  # fmt: skip


#: Of a process with ONNX Runtime and the tokenizer but no network: stands for ExecuTorch's without torch.
ENGINE_LOADED = 77 * MB


@app.command(epilog="Example: python benchmarks/calibrate_memory.py nano.mfb tiny.mfb --within 0.1")
def calibrate(
    bundles: Annotated[list[Path], typer.Argument(help="Folders made by mf-export build.", metavar="BUNDLE...")],
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    within: Annotated[float, typer.Option(min=0, help="Allowed error, as a fraction.")] = 0.1,
    out: Annotated[Path | None, typer.Option(help="JSON to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> int:  # fmt: skip
    """Measure every size and engine of the bundles in fresh processes, beside the prediction."""
    if out is not None:
        check_output(out, force)
    found: list[Comparison] = []
    for path in bundles:
        bundle = load_bundle(path)
        for target in (name for name in bundle.manifest.targets if name in OVERHEADS):
            for entry in bundle.manifest.sizes:
                found += compare(bundle, target, (entry.height, entry.width), threads)
    table = Table("model", "target", "precision", "size", "loading", "predicted MB", "measured MB", "ratio")
    for item in found:
        counts = (f"{item.predicted / MB:.1f}", f"{item.measured / MB:.1f}", f"{item.ratio:.3f}")
        table.add_row(item.model, item.target, item.precision, item.size, item.loading, *counts)
    Console().print(table)
    if out is not None:
        text = json.dumps([{**asdict(item), "ratio": round(item.ratio, 4)} for item in found], indent=1)
        atomic_bytes(out, f"{text}\n".encode(), force)
    return DONE if found and all(abs(item.ratio - 1) <= within for item in found) else FELL_SHORT


if __name__ == "__main__":
    run(app)
