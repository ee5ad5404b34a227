"""``mf-bench``: thin; everything heavy is imported inside the commands.

``mf-bench BUNDLE`` measures; ``mf-bench compare``, ``scaling`` and ``against`` are commands, so the first word
decides.
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
    from microforge_benchmarks.measure.latency import Settings
    from microforge_benchmarks.report.html import Roof

app = command_app("Measure a bundle on this machine.")
compare_app = command_app("Tabulate measured rows.")

ROWS, PAGE = "rows.json", "report.html"
EXAMPLE = "Example: mf-bench model.mfb --out report --threads 1,2 --memory-limit 1GB. Others: mf-bench compare a/rows.json b/rows.json; mf-bench scaling --help; mf-bench against --help"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


@app.command(epilog=EXAMPLE)
def bench(
    bundle: Annotated[Path, typer.Argument(help="Folder made by mf-export build.")],
    out: Annotated[Path, typer.Option(help="Folder for rows.json, report.html and its plots.")],
    target: Annotated[str, typer.Option(help="Engines, with commas between them: onnx, executorch, coreml.")] = "onnx",
    device: Annotated[str | None, typer.Option(help="Profile whose budget the report shows: phone-2gb, phone-3gb, phone-4gb, or a TOML file.")] = None,
    size: Annotated[str | None, typer.Option(help="128 or 128x256 (height x width), if there are several.")] = None,
    runs: Annotated[int, typer.Option(min=1, max=10_000, help="Warm images to time.")] = 20,
    threads: Annotated[str | None, typer.Option(help="CPU threads of the engine, with commas between counts to try; its own choice when omitted.")] = None,
    mode: Annotated[str, typer.Option(help="resident keeps the stages between images, staged frees each after its use.")] = "resident",
    memory_limit: Annotated[str | None, typer.Option(help="3GB or 512MB: a hard limit that the kernel enforces.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that one measurement may take; then it counts as dead.")] = 900.0,
    name: Annotated[str | None, typer.Option(help="What to call this device; its architecture when omitted.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Time every kind of operator too (onnx, executorch).")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing report.")] = False,
    json: Json = False,
) -> int:  # fmt: skip
    """Measure load, first and warm images, memory and CPU time, each in a fresh process; exit 1 when one dies."""
    from microforge.bundle.devices import find_device
    from microforge.bundle.files import load_bundle
    from microforge.io.atomic import atomic_folder, check_output
    from microforge.io.console import DONE, FELL_SHORT
    from microforge.spec import parse_size
    from microforge_benchmarks.measure.latency import Settings, measure
    from microforge_benchmarks.measure.memory import parse_bytes

    check_output(out, force)
    profile_of = None if device is None else find_device(device)
    opened = load_bundle(bundle)
    pixels = None if size is None else parse_size(size, opened.manifest.latent.downsample)
    limit = None if memory_limit is None else parse_bytes(memory_limit)
    plan = [
        Settings(engine, pixels, count, runs, _loading(mode), limit, profile, name, timeout)
        for engine in target.split(",") for count in _counts(threads)
    ]  # fmt: skip
    _refuse_early(opened, plan)
    rows = []
    for number, settings in enumerate(plan, 1):
        say(f"[{number}/{len(plan)}] {settings.target}, threads: {settings.threads or 'the engine chooses'}")
        rows.append(measure(opened, settings))
    with atomic_folder(out, force, marker=ROWS) as folder:
        _write(folder, rows, profile_of, _roofs(opened, plan[0], profile_of))
    _say_result(out, rows, json)
    return FELL_SHORT if any(row.failure is not None for row in rows) else DONE


@compare_app.command(epilog="Example: mf-bench compare mine/rows.json phone/rows.json")
def compare(
    rows: Annotated[list[Path], typer.Argument(help="JSON files with a row or a list of rows.", metavar="ROW.json...")],
    into: Annotated[Path | None, typer.Option(help="Markdown page that holds <!-- mf-bench begin --> and <!-- mf-bench end -->: write the table between them.")] = None,
    check: Annotated[bool, typer.Option("--check", help="With --into: only look; exit 1 when the page is out of date.")] = False,
    json: Json = False,
) -> int:  # fmt: skip
    """Tabulate measured rows, whichever program measured them."""
    from rich.console import Console

    from microforge.bundle.measurements import read_rows
    from microforge.io.console import DONE, FELL_SHORT
    from microforge_benchmarks.report.table import compare_table

    found = [row for path in rows for row in read_rows(path)]
    current = True
    if into is not None:
        from microforge_benchmarks.report.markdown import refresh

        current = refresh(into, found, check) or not check
    if json:
        print_json({"rows": [row.model_dump(mode="json") for row in found], "current": current})
    else:
        Console().print(compare_table(found))
    if not current:
        say_error(f"{into} is out of date; run the same without --check")
    return DONE if current else FELL_SHORT


def _counts(threads: str | None) -> list[int | None]:
    if threads is None:
        return [None]
    words = [word.strip() for word in threads.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 1024 for word in words):
        raise SpecError(f"--threads is {threads!r}; write counts from 1 to 1024 with commas, as 1,2")
    return [int(word) for word in words]


def _loading(word: str) -> Loading:
    if word not in ("resident", "staged"):
        raise SpecError(f"--mode is {word!r}; allowed: resident, staged")
    return cast("Loading", word)


def _refuse_early(bundle: Bundle, plan: list[Settings]) -> None:
    """A target, size or task that is not there is said before anything is measured."""
    from microforge_runtimes.generator import Generator

    for settings in plan:
        Generator(bundle, settings.target, settings.size).close()


def _roofs(bundle: Bundle, settings: Settings, device: DeviceProfile | None) -> list[Roof]:
    """Rooflines of the ONNX graphs: this machine's, and those of the profiles. None without the onnx package."""
    if "onnx" not in bundle.manifest.targets:
        return []
    try:
        from microforge_benchmarks.measure import roofline
    except MissingExtraError:  # onnx comes with the extra bench
        return []
    from microforge.bundle.devices import DEVICES
    from microforge_benchmarks.report.html import Roof

    cost, threads = roofline.drawing_cost(bundle, settings.size), settings.threads or 1
    here = roofline.machine_rates(threads)
    roofs = [Roof("this machine", here.source, roofline.bound(cost, here), True)]
    profiles = {**DEVICES, **({} if device is None else {device.name: device})}
    for name, profile in profiles.items():
        rates = roofline.device_rates(profile)
        roofs.append(Roof(name, rates.source, roofline.bound(cost, rates), False))
    return roofs


def _write(folder: Path, rows: list[Row], device: DeviceProfile | None, roofs: list[Roof]) -> None:
    from microforge_benchmarks.report.html import page, plots

    values = [row.model_dump(mode="json") for row in rows]
    (folder / ROWS).write_text(json_module.dumps(values, indent=1) + "\n", "utf-8")
    try:
        images = plots(rows, device)
    except MissingExtraError as error:  # as on a phone: the figures are worth keeping without their pictures
        say_warning(f"no plots: {error}")
        images = {}
    for name, data in images.items():
        (folder / name).write_bytes(data)
    (folder / PAGE).write_text(page(rows, device, images, roofs), "utf-8")


def _say_result(out: Path, rows: list[Row], json: bool) -> None:
    from rich.console import Console

    from microforge_benchmarks.report.table import compare_table

    if json:
        values = [row.model_dump(mode="json", exclude={"memory": {"timeline"}}) for row in rows]
        print_json({"out": str(out.absolute()), "rows": values})
        return
    Console(stderr=True).print(compare_table(rows))
    print((out / PAGE).absolute())


def main() -> None:
    """Entry point of ``mf-bench``: the first word chooses a command, anything else is a bundle to measure."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "compare":
        run(compare_app, sys.argv[2:])
    if word == "scaling":
        from microforge_benchmarks.studies.scaling_cli import app as scaling_app

        run(scaling_app, sys.argv[2:])
    if word == "against":
        from microforge_benchmarks.studies.baselines_cli import app as against_app

        run(against_app, sys.argv[2:])
    run(app)


if __name__ == "__main__":
    main()
