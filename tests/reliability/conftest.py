"""Inputs of the attacks, made once; ``--tries N`` says how often each command is attacked."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import microforge
from microforge.checkpoint import read_checkpoint
from microforge.spec import PlannerSpec
from tests.conftest import MINIATURE, saved
from tests.reliability import commands
from tests.reliability.attacks import Attacks
from tests.reliability.commands import Command, Inputs
from tests.reliability.processes import CommandServer, Job

#: Names of the attacked commands, and what makes each of them.
NAMES = ("generate", "pack", "fetch", "vae", "flow", "distill", "build")
_PAUSE = 0.02  # seconds between two pieces of a file that the server sends: else a download is over at once
_PIECE = 1 << 16

Report = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tries", type=int, default=2, help="how often every command is attacked")
    parser.addoption("--images", type=int, default=40, help="images in a row")


@pytest.fixture(scope="session")
def tries(request: pytest.FixtureRequest) -> int:
    """Tries per command."""
    return int(request.config.getoption("--tries", default=2))


@pytest.fixture(scope="session")
def images(request: pytest.FixtureRequest) -> int:
    """Images in a row."""
    return int(request.config.getoption("--images", default=40))


_REPORT: list[str] = []


@pytest.fixture(scope="session")
def report() -> Report:
    """Adds a line to the summary."""
    return _REPORT.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _REPORT:
        terminalreporter.write_line(line)


class _Slow(SimpleHTTPRequestHandler):
    """Sends a file in small pieces with pauses between them."""

    def copyfile(self, source, outputfile) -> None:  # type: ignore[no-untyped-def]
        while piece := source.read(_PIECE):
            outputfile.write(piece)
            time.sleep(_PAUSE)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # of a client that was killed
            pass


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    """Two checkpoints, their bundles, and a server of the second bundle."""
    folder = tmp_path_factory.mktemp("inputs")
    folder.chmod(0o755)  # another user reads them, too
    specs = {
        "old": MINIATURE,
        "new": replace(MINIATURE, planner=PlannerSpec(depth=1, dim=64, num_plan_tokens=5, heads=2)),
    }
    checkpoints = {name: saved(spec, folder / f"{name}-checkpoint") for name, spec in specs.items()}
    bundles = {
        name: microforge.export(
            path, folder / f"{name}.mfb", targets=["onnx"], precision="fp32", progress=False
        )
        for name, path in checkpoints.items()
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Slow, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield Inputs(
            checkpoints["old"], checkpoints["new"], bundles["old"], bundles["new"],
            read_checkpoint(checkpoints["old"]).sha256, read_checkpoint(checkpoints["new"]).sha256,
            f"http://127.0.0.1:{server.server_port}/new.mfb",
        )  # fmt: skip
    finally:
        server.shutdown()


@pytest.fixture(scope="session")
def make_command(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Command]:
    """Makes the command of a name, with its old outputs."""

    def make(name: str) -> Command:
        folder = tmp_path_factory.mktemp(f"old-{name}")
        return _MAKERS[name](inputs, folder)

    return make


def _call(app: str, folder: Path, *arguments: str) -> None:
    """Run a command to its end."""
    log = folder.parent / f"{folder.name}.log"
    with CommandServer(mini=True) as server:
        outcome = server.run(Job(app, arguments, folder, log, folder.parent))
    assert outcome.code == 0, outcome.text


def _bundle_command(make: Callable[[Inputs], Command], inputs: Inputs, folder: Path) -> Command:
    command = make(inputs)
    if command.outputs == ("b.mfb",):
        shutil.copytree(inputs.old_bundle, folder / "b.mfb")
    else:
        _call(command.app, folder, "pack", str(inputs.old_bundle), "--out", command.outputs[0])
    return replace(command, old=folder)


def _generate(inputs: Inputs, folder: Path) -> Command:
    images = []
    for bundle in (inputs.new_bundle, inputs.old_bundle):
        _call(
            "microforge_runtimes.cli",
            folder,
            str(bundle),
            "a red circle",
            "--out",
            "a.png",
            "--threads",
            "1",
            "--force",
        )
        images.append((folder / "a.png").read_bytes())
    return replace(commands.generate(inputs, images[1], images[0]), old=folder)


def _train(stage: str, inputs: Inputs, folder: Path) -> Command:
    if stage == "flow":
        _call("microforge.training.cli", folder, *commands.train_arguments("vae", 1))
    _call("microforge.training.cli", folder, *commands.train_arguments(stage, 1))
    return commands.train(folder, stage)


def _distill(inputs: Inputs, folder: Path) -> Command:
    _call("microforge_export.cli", folder, *commands.distill_arguments(inputs.new_checkpoint, 1))
    return commands.distill(inputs, folder)


_MAKERS: dict[str, Callable[[Inputs, Path], Command]] = {
    "build": partial(_bundle_command, commands.build),
    "pack": partial(_bundle_command, commands.pack),
    "fetch": partial(_bundle_command, commands.fetch),
    "generate": _generate,
    "vae": partial(_train, "vae"),
    "flow": partial(_train, "flow"),
    "distill": _distill,
}


@pytest.fixture(scope="module", params=NAMES)
def attacks(
    request: pytest.FixtureRequest,
    make_command: Callable[[str], Command],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Attacks]:
    """A command whose modules are imported already, and the folder of an undisturbed call."""
    command = make_command(request.param)
    folder = tmp_path_factory.mktemp(f"attack-{request.param}")
    whole, modules = folder / "whole", folder / "modules"
    whole.mkdir()
    if request.param == "flow":
        assert command.old is not None
        shutil.copytree(command.old / "run" / "vae", whole / "run" / "vae")
    with CommandServer(mini=True) as server:
        job = Job(command.app, command.arguments, whole, folder / "log", folder, modules=modules)
        outcome = server.run(job)
    assert outcome.code == 0, outcome.text
    with CommandServer(modules, mini=True) as server:
        yield Attacks(command, server, folder, whole)
