"""Runs the project's commands in forked processes, so that a try does not wait for seconds of imports.

Run as a script. Arguments: a file that lists the modules to import first, or -; a file with a miniature configuration
(``miniature.py``), or -. Every line of stdin is a ``Job`` as JSON. The answers on stdout, a line each, are the
number of the process as soon as it is started; 0 when it has ended; and, after another line of stdin, its exit code (-9:
ended by SIGKILL).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

#: Audit events that change the file system; a path that is opened to be written is one, too.
_CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.chmod",
    "os.link",
    "os.symlink",
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Serve until stdin ends."""
    modules, configuration = sys.argv[1:]
    if modules != "-":
        for name in Path(modules).read_text("utf-8").split():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if configuration != "-":
        _patch(Path(configuration))
    answers = os.fdopen(os.dup(1), "w")
    for line in iter(sys.stdin.readline, ""):
        pid = os.fork()
        if pid == 0:
            _work(json.loads(line))
        print(pid, file=answers, flush=True)
        os.waitid(
            os.P_PID, pid, os.WEXITED | os.WNOWAIT
        )  # it keeps its number: no signal can hit another process
        print(0, file=answers, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _patch(configuration: Path) -> None:
    """Put the patches of a miniature configuration in place, for the rest of the process."""
    spec = importlib.util.spec_from_file_location("configuration", configuration)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for owner, name, value in module.PATCHES:
        setattr(owner, name, value)


def _work(job: dict[str, Any]) -> None:
    """Be the command that ``job`` describes; does not return."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, descriptor)
    os.chdir(job["folder"])
    os.environ["TMPDIR"] = job["temporary"]
    if job["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], job["file_bytes"]))
    if job["user"] is not None:
        os.setgroups([])
        os.setgid(job["user"])
        os.setuid(job["user"])
    if job["kill_at"] is not None:
        sys.addaudithook(_killer(job["kill_at"]))
    from microforge.io.console import exit_code

    code = exit_code(importlib.import_module(job["app"]).app, job["arguments"])
    if job["modules"] is not None:
        Path(job["modules"]).write_text("\n".join(sorted(sys.modules)), "utf-8")
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # libraries wait at a usual exit for threads that a forked process does not have


def _killer(number: int) -> Any:
    """An audit hook that kills the process just before its ``number``-th change of the file system, from 0 on."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITING)
        if changes and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= bool(changes)

    return hook


if __name__ == "__main__":
    main()
