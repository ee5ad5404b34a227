"""What every command line shares: messages on stderr, one line per error, exit codes 0, 1 and 2. No torch.

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
    """An app in the house style; ``summary`` is the first line of its help."""
    return typer.Typer(help=summary, add_completion=False, pretty_exceptions_enable=False)


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run ``app`` on ``arguments`` (the process's own by default) and exit; never prints a traceback for
    something that a user can cause."""
    sys.exit(exit_code(app, arguments))


def exit_code(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """As ``run``, but returns the exit code."""
    command = typer.main.get_command(app)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = command.main(args=words, standalone_mode=False)
        sys.stdout.flush()
        if result == INTERRUPTED:  # newer typer turns Ctrl-C into this code itself
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
    """Exit code of a mistake in the command's words, after saying it in one line; None for anything else."""
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
    """One line on stderr."""
    print(" ".join(message.split()), file=sys.stderr, flush=True)


def say_error(message: str) -> None:
    say(f"error: {message}")


def say_warning(message: str) -> None:
    say(f"warning: {message}")


def print_json(values: Mapping[str, Any]) -> None:
    """The result of ``--json``: one object on the last line of stdout."""
    print(json.dumps(values, ensure_ascii=True), flush=True)
