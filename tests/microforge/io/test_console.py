"""Shared behaviour of all commands: exit codes, and one line per error."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from microforge.errors import ParityError, SpecError
from microforge.io.console import command_app, exit_code, print_json, run, say_error, say_warning

Capture = pytest.CaptureFixture[str]

app = command_app("An app.")


@app.command()
def act(what: str) -> None:
    """Do one thing."""
    if what == "mistake":
        raise SpecError("size is 7;\n allowed: 32")
    if what == "check":
        raise ParityError("40 dB, needed: 60 dB")
    if what == "interrupt":
        raise KeyboardInterrupt
    if what == "full disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out.bin")
    if what == "full disk of a library":
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    if what == "bug":
        raise ZeroDivisionError
    say_warning("nearly")
    print("first")
    print_json({"done": True, "text": "é"})


@pytest.mark.parametrize(
    ("word", "code", "message"),
    [
        ("mistake", 2, "error: size is 7; allowed: 32\n"),
        ("check", 1, "error: 40 dB, needed: 60 dB\n"),
        ("interrupt", 130, "error: interrupted\n"),
        ("full disk", 2, "error: out.bin: No space left on device\n"),
        ("full disk of a library", 2, "error: cannot write: No space left on device\n"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    capsys: Capture, word: str, code: int, message: str
) -> None:
    assert exit_code(app, [word]) == code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "--nonsense"]])
def test_wrong_options_are_one_line_and_point_to_the_help(capsys: Capture, words: list[str]) -> None:
    assert exit_code(app, words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "--help)" in printed.err


def test_json_is_the_last_line_and_messages_stay_off_stdout(capsys: Capture) -> None:
    assert exit_code(app, ["go"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1]) == {"done": True, "text": "é"}
    assert printed.out.isascii() and printed.err == "warning: nearly\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(app, ["bug"])


def test_run_exits_with_the_code() -> None:
    with pytest.raises(SystemExit) as caught:
        run(app, ["check"])
    assert caught.value.code == 1


#: A command that builds a folder and waits in the middle, as a long build does.
_SLOW = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
from pathlib import Path
from microforge.io.atomic import atomic_folder
from microforge.io.console import command_app, run
app = command_app("An app.")
@app.command()
def build(out: Path) -> None:
    with atomic_folder(out, marker="m") as folder:
        (folder / "m").write_text("1")
        print("ready", flush=True)
        time.sleep(60)
run(app)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_leaves_nothing_behind_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", _SLOW, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number and list(tmp_path.iterdir()) == []
    assert errors == f"error: ended by {number.name}; unfinished outputs are removed\n"


def test_a_command_outside_the_main_thread_runs_without_handlers(capsys: Capture) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(exit_code(app, ["go"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_neither_crash_nor_are_written_into_files(tmp_path: Path, closed: str) -> None:
    source = """
import sys
from microforge.io.console import command_app, print_json, run, say_warning
app = command_app("An app.")
@app.command()
def write(out: str) -> None:
    with open(out, "w") as stream:
        print("lost")
        say_warning("lost")
        print_json({"lost": 1})
        stream.write("kept")
run(app)
"""
    (tmp_path / "app.py").write_text(source)
    line = f'"{sys.executable}" "{tmp_path / "app.py"}" "{tmp_path / "out"}" {closed}'
    assert (
        subprocess.run(
            line, shell=True, timeout=60, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )
    assert (tmp_path / "out").read_text() == "kept"


def test_messages_hold_no_characters_that_steer_a_terminal(capsys: Capture) -> None:
    say_error("the tensor \x1b[2J\x07\u202e is\r\nodd: é 日本 \udce9")
    assert capsys.readouterr().err == "error: the tensor \\x1b[2J\\x07\\u202e is odd: é 日本 \\udce9\n"
