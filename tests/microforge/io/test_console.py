"""What every command line shares: exit codes, and one line per error."""

from __future__ import annotations

import json

import pytest

from microforge.errors import ParityError, SpecError
from microforge.io.console import command_app, exit_code, print_json, run, say_warning

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
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    capsys: Capture, word: str, code: int, message: str
) -> None:
    assert exit_code(app, [word]) == code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("words", [[], ["a", "b"], ["a", "--nonsense"]])
def test_wrong_words_are_one_line_and_point_to_the_help(capsys: Capture, words: list[str]) -> None:
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
