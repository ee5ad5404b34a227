"""Command line of ``mf-bench``; heavy packages are imported inside the commands.

``mf-bench BUNDLE`` measures a bundle. ``mf-bench compare``, ``profile``, ``scaling`` and ``against`` are commands of
their own, so the first word decides.
"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from microforge.errors import MissingExtraError, SpecError
from microforge.io.console import command_app, print_json, run, say, say_error, say_warning

if TYPE_CHECKING:
    from microforge.bundle.devices import DeviceProfile
    from microforge.bundle.files import Bundle
    from microforge.bundle.measurements import Loading, Row
    from microforge_benchmarks.measure.latency import MeasurementSettings
    from microforge_benchmarks.report.html import RooflineRow

app = command_app("Measure the latency and memory of a bundle on this machine.")
compare_app = command_app("Tabulate measured rows.")

ROWS, PAGE = "rows.json", "report.html"
EXAMPLE = (
    "Example: mf-bench model.mfb --out report --threads 1,2 --memory-limit 1GB. "
    "Other commands, each with --help: mf-bench compare, mf-bench profile, mf-bench scaling, mf-bench against."
)
ENGINE, MEASUREMENT, OUTPUT = "Engine", "Measurement", "Report"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.", rich_help_panel=OUTPUT)]  # fmt: skip


@app.command(epilog=EXAMPLE)
def bench(
    bundle: Annotated[Path, typer.Argument(help="Bundle made by mf-export build.")],
    out: Annotated[Path, typer.Option(help="Folder for rows.json, report.html and its plots.", rich_help_panel=OUTPUT)],
    target: Annotated[str, typer.Option(help="Engines, separated by commas: onnx, executorch, coreml, litert.", rich_help_panel=ENGINE)] = "onnx",
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if the bundle has several sizes.", rich_help_panel=ENGINE)] = None,
    threads: Annotated[str | None, typer.Option(help="CPU threads of the engine: one count, or several separated by commas; the engine's default when omitted.", rich_help_panel=ENGINE)] = None,
    mode: Annotated[str, typer.Option(help="resident keeps all stages in memory between images, staged frees each after its use.", rich_help_panel=ENGINE)] = "resident",
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Number of warm images.", rich_help_panel=MEASUREMENT)] = 20,
    memory_limit: Annotated[str | None, typer.Option(help="3GB or 512MB: a limit that the kernel enforces.", rich_help_panel=MEASUREMENT)] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which a measurement is stopped and counts as failed.", rich_help_panel=MEASUREMENT)] = 900.0,
    profile: Annotated[bool, typer.Option("--profile", help="Also measure every kind of operator (onnx, executorch).", rich_help_panel=MEASUREMENT)] = False,
    device: Annotated[str | None, typer.Option(help="Profile whose memory budget the report shows: phone-2gb, phone-3gb, phone-4gb, or a TOML file.", rich_help_panel=OUTPUT)] = None,
    name: Annotated[str | None, typer.Option(help="Name of this device in the rows; its architecture when omitted.", rich_help_panel=OUTPUT)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.", rich_help_panel=OUTPUT)] = False,
    json: Json = False,
) -> int:  # fmt: skip
    """Measure loading, first and warm images, memory and CPU time in new processes; exit code 1 when one of them dies."""
    from microforge.bundle.devices import find_device
    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_folder, check_output
    from microforge.io.console import DONE, FELL_SHORT
    from microforge.spec import parse_size
    from microforge_benchmarks.measure.latency import MeasurementSettings, measure
    from microforge_benchmarks.measure.memory import parse_bytes
    from microforge_benchmarks.thread_counts import thread_counts

    check_output(out, force)
    device_profile = None if device is None else find_device(device)
    opened = load_bundle(bundle)
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    plan = [
        MeasurementSettings(engine, pixels, count, runs, _loading(mode), limit, profile, name, timeout)
        for engine in target.split(",") for count in thread_counts(threads)
    ]  # fmt: skip
    _check_plan(opened, plan)
    rows = []
    for number, settings in enumerate(plan, 1):
        say(f"[{number}/{len(plan)}] {settings.target}, threads: {settings.threads or 'the default'}")
        rows.append(measure(opened, settings))
    with atomic_folder(out, force, marker=ROWS) as folder:
        _write_report(folder, rows, device_profile, _roofline_rows(opened, plan[0], device_profile))
    _print_result(out, rows, json)
    return FELL_SHORT if any(row.failure is not None for row in rows) else DONE


@compare_app.command(epilog="Example: mf-bench compare laptop/rows.json phone/rows.json")
def compare_rows(
    rows: Annotated[list[Path], typer.Argument(help="JSON files with a row or a list of rows.", metavar="ROWS.json...")],
    into: Annotated[Path | None, typer.Option(help="Markdown page with the lines <!-- mf-bench begin --> and <!-- mf-bench end -->; the table is written between them.", rich_help_panel=OUTPUT)] = None,
    check: Annotated[bool, typer.Option("--check", help="With --into: write nothing, and exit with 1 when the page is out of date.", rich_help_panel=OUTPUT)] = False,
    json: Json = False,
) -> int:  # fmt: skip
    """Tabulate measured rows, whichever program measured them."""
    from rich.console import Console

    from microforge.bundle.measurements import read_rows
    from microforge.io.console import DONE, FELL_SHORT
    from microforge_benchmarks.report.table import rows_table

    measured = [row for path in rows for row in read_rows(path)]
    current = True
    if into is not None:
        from microforge_benchmarks.report.markdown import refresh

        current = refresh(into, measured, check) or not check
    if json:
        print_json({"rows": [row.model_dump(mode="json") for row in measured], "current": current})
    else:
        Console().print(rows_table(measured))
    if not current:
        say_error(f"{into} is out of date; run the same command without --check")
    return DONE if current else FELL_SHORT


def _loading(mode: str) -> Loading:
    if mode not in ("resident", "staged"):
        raise SpecError(f"--mode is {mode!r}; allowed: resident, staged")
    return cast("Loading", mode)


def _check_plan(bundle: Bundle, plan: list[MeasurementSettings]) -> None:
    """Refuse a target, size or task that the bundle does not have, before anything is measured."""
    from microforge_runtimes.generator import Generator

    for settings in plan:
        Generator(bundle, settings.target, settings.size).close()


def _roofline_rows(
    bundle: Bundle, settings: MeasurementSettings, device: DeviceProfile | None
) -> list[RooflineRow]:
    """Rooflines of the ONNX graphs for this machine and for the profiles; empty without ONNX files or onnx."""
    if "onnx" not in bundle.manifest.targets:
        return []
    try:
        from microforge_benchmarks.measure import roofline
    except MissingExtraError:  # onnx comes with the extra bench
        return []
    from microforge.bundle.devices import DEVICES
    from microforge_benchmarks.report.html import RooflineRow

    cost, threads = roofline.image_cost(bundle, settings.size), settings.threads or 1
    machine = roofline.machine_rates(threads)
    rows = [RooflineRow("this machine", machine.source, roofline.bound(cost, machine), True)]
    profiles = {**DEVICES, **({} if device is None else {device.name: device})}
    for name, profile in profiles.items():
        rates = roofline.device_rates(profile)
        rows.append(RooflineRow(name, rates.source, roofline.bound(cost, rates), False))
    return rows


def _write_report(
    folder: Path, rows: list[Row], device: DeviceProfile | None, rooflines: list[RooflineRow]
) -> None:
    from microforge_benchmarks.report.html import page, plots

    values = [row.model_dump(mode="json") for row in rows]
    (folder / ROWS).write_text(json_module.dumps(values, indent=1) + "\n", "utf-8")
    try:
        images = plots(rows, device)
    except MissingExtraError as error:  # as on a phone: the measurements are useful without plots
        say_warning(f"no plots: {error}")
        images = {}
    for name, data in images.items():
        (folder / name).write_bytes(data)
    (folder / PAGE).write_text(page(rows, device, images, rooflines), "utf-8")


def _print_result(out: Path, rows: list[Row], json: bool) -> None:
    from rich.console import Console

    from microforge_benchmarks.report.table import rows_table

    if json:
        values = [row.model_dump(mode="json", exclude={"memory": {"timeline"}}) for row in rows]
        print_json({"out": str(out.absolute()), "rows": values})
        return
    Console(stderr=True).print(rows_table(rows))
    print((out / PAGE).absolute())


def main() -> None:
    """Entry point of ``mf-bench``: the first word chooses a command, and anything else is a bundle to measure."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "compare":
        run(compare_app, sys.argv[2:])
    if word == "profile":
        from microforge_benchmarks.studies.image_profile_cli import app as profile_app

        run(profile_app, sys.argv[2:])
    if word == "scaling":
        from microforge_benchmarks.studies.scaling_cli import app as scaling_app

        run(scaling_app, sys.argv[2:])
    if word == "against":
        from microforge_benchmarks.studies.baselines_cli import app as baselines_app

        run(baselines_app, sys.argv[2:])
    run(app)


if __name__ == "__main__":
    main()
