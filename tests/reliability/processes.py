"""Commands of the project as processes that can be killed at a chosen moment; see ``command_server.py``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parents[2]
MINIATURE = Path(__file__).with_name("miniature.py")
_SOURCES = (ROOT, ROOT / "export", ROOT / "runtimes", ROOT / "benchmarks")


@dataclass(frozen=True)
class Job:
    """One call of a command.

    ``app`` is the module of the command line. ``user`` runs it as another user. ``kill_at`` kills it just before its n-th
    change of the file system. ``file_bytes`` is the size at which the system lets no file grow further, as a quota does.
    ``modules`` is a file to list the imported modules in.
    """

    app: str
    arguments: tuple[str, ...]
    folder: Path
    log: Path
    temporary: Path
    user: int | None = None
    kill_at: int | None = None
    file_bytes: int | None = None
    modules: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, or minus the number of the signal; what it printed; its seconds."""

    code: int
    text: str
    seconds: float


def environment() -> dict[str, str]:
    """Variables of a process that runs this project's code with one thread."""
    path = os.pathsep.join([*map(str, _SOURCES), os.environ.get("PYTHONPATH", "")])
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}


class CommandServer:
    """Starts commands of the project one after the other; a context manager."""

    def __init__(self, modules: Path | None = None, mini: bool = False) -> None:
        """Start the server.

        Args:
            modules: file with the names of modules to import before any command starts.
            mini: whether to patch training and distillation, see ``miniature.py``.
        """
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("command_server.py")), str(modules or "-"), str(MINIATURE if mini else "-")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment()},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, job: Job, after: float | None = None, number: int = signal.SIGKILL) -> Outcome:
        """Run ``job`` to its end; ``after`` seconds after its start, if it still runs, it gets the signal ``number``."""
        self._say(json.dumps(asdict(job), default=str))
        pid = self._answer()
        begin = time.monotonic()
        if after is not None:
            time.sleep(after)
            os.kill(pid, number)
        self._answer()
        seconds = time.monotonic() - begin
        self._say("")
        return Outcome(self._answer(), job.log.read_text("utf-8", "replace"), seconds)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())
