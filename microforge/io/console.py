"""Shared behaviour of all commands: messages on stderr, one line per error, exit codes 0, 1 and 2. No torch.

A command module defines ``app = command_app(HELP)`` and ``def main() -> None: run(app)``. Inside a command
raise a ``MicroForgeError``: user mistakes (ValueError) exit with 2, failed checks (RuntimeError) with 1. What the system
refuses (a full disk, no permission) exits with 2, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import typer

from microforge.errors import MicroForgeError
from microforge.io.disk_failure import disk_failure

DONE, FELL_SHORT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
#: Signals that ask a process to end, and its exit code then is this plus the signal's number.
_ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_SIGNALLED = 128


class _Terminated(BaseException):
    """A signal asked the process to end. No Exception: nothing but cleaning up catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def command_app(summary: str) -> typer.Typer:
    """A typer application with the shared settings; ``summary`` is the first line of its help."""
    return typer.Typer(help=summary, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run ``app`` on ``arguments`` (by default those of the process) and exit.

    A user mistake is one line on stderr; only a bug shows a traceback.
    """
    sys.exit(exit_code(app, arguments))


def exit_code(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run ``app`` as ``run`` does and return the exit code."""
    command = typer.main.get_command(app)
    _open_missing_streams()
    try:
        with _signals_as_exceptions():
            return _run_command(command, list(sys.argv[1:] if arguments is None else arguments))
    except _Terminated as error:
        say_error(f"ended by {signal.Signals(error.number).name}; unfinished outputs are removed")
        return _SIGNALLED + error.number


def _run_command(command: Any, arguments: list[str]) -> int:
    try:
        result = command.main(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # recent versions of typer return this code on Ctrl-C
            say_error("interrupted")
        return result if isinstance(result, int) else DONE
    except MicroForgeError as error:
        say_error(str(error))
        return FELL_SHORT if isinstance(error, RuntimeError) else BAD_INPUT
    except (KeyboardInterrupt, typer.Abort):
        say_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit flush fails again
        return DONE
    except OSError as error:  # a full disk, a file that vanished: what the system says, without a traceback
        where = f"{error.filename}: " if error.filename else ""
        say_error(f"{where}{disk_failure(error) or error.strerror or error}")
        return BAD_INPUT
    except Exception as error:
        code = _usage_error(error)
        if (
            code is None and (reason := disk_failure(error)) is not None
        ):  # of a library with errors of its own
            say_error(f"cannot write: {reason}")
            return BAD_INPUT
        if code is None:
            raise
        return code


@contextlib.contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise, so that ``finally`` blocks remove what is unfinished."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    previous = {number: signal.getsignal(number) for number in _ENDING_SIGNALS}

    def end(number: int, frame: FrameType | None) -> None:
        for other in _ENDING_SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise _Terminated(number)

    for number, handler in previous.items():
        if handler is signal.SIG_DFL:  # ignored by nohup, or handled by somebody else: stays so
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _open_missing_streams() -> None:
    """Streams that the caller closed (``>&-``) lead nowhere: else the next opened file would take their number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # for the rest of the process


def _usage_error(error: Exception) -> int | None:
    """Exit code of a wrong option or argument, which is reported in one line; None for any other error."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    text = str(message())
    if text:  # empty when the help was shown instead
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        say_error(text + hint)
    return int(getattr(error, "exit_code", BAD_INPUT))


def say(message: str) -> None:
    """Print one line on stderr."""
    print(_plain(message), file=sys.stderr, flush=True)


def _plain(message: str) -> str:
    """``message`` on one line, without characters that steer a terminal or cannot be encoded: names come from strangers."""
    line = " ".join(message.split())
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line
    )


def say_error(message: str) -> None:
    """Print one line that starts with ``error:`` on stderr."""
    say(f"error: {message}")


def say_warning(message: str) -> None:
    """Print one line that starts with ``warning:`` on stderr."""
    say(f"warning: {message}")


def print_json(values: Mapping[str, Any]) -> None:
    """Print the result of ``--json``: one object on the last line of stdout."""
    print(json.dumps(values, ensure_ascii=True), flush=True)
