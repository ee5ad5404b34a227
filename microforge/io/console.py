"""Shared behaviour of all commands: messages on stderr, one line per error, exit codes 0, 1 and 2. No torch.

A command module defines ``app = command_app(HELP)`` and ``def main() -> None: run(app)``. Inside a command
raise a ``MicroForgeError``: user mistakes (ValueError) exit with 2, failed checks (RuntimeError) with 1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from microforge.errors import MicroForgeError

DONE, FELL_SHORT, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


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
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = command.main(args=list(arguments), standalone_mode=False)
        if sys.stdout is not None:  # closed by the caller: `command >&-`
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
    except Exception as error:
        code = _usage_error(error)
        if code is None:
            raise
        return code


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
    print(" ".join(message.split()), file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    """Print one line that starts with ``error:`` on stderr."""
    say(f"error: {message}")


def say_warning(message: str) -> None:
    """Print one line that starts with ``warning:`` on stderr."""
    say(f"warning: {message}")


def print_json(values: Mapping[str, Any]) -> None:
    """Print the result of ``--json``: one object on the last line of stdout."""
    print(json.dumps(values, ensure_ascii=True), flush=True)
