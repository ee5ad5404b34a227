"""``mf-data``: help, one line for a mistake, and a tokenizer that reads every language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from microforge.data import cli
from microforge.data.stickers import tokenizer_corpus
from microforge.io.console import BAD_INPUT, DONE, exit_code
from microforge.tokenizer import PromptTokenizer


def test_help_names_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(cli.app, ["--help"]) == DONE
    text = capsys.readouterr().out
    assert "stickers" in text and "tokenizer" in text


def test_a_mistake_is_one_line_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert (
        exit_code(cli.app, ["stickers", "--out", str(out), "--packages", str(tmp_path / "none")]) == BAD_INPUT
    )
    assert (
        exit_code(cli.app, ["tokenizer", "--stickers", str(tmp_path), "--out", str(tmp_path / "t.json")])
        == BAD_INPUT
    )
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_is_written_once_and_says_how_long_captions_are(
    sprites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_corpus, "documentation_texts", lambda: iter(("Plain English.",)))
    for name, count in (("SHAPE_CAPTIONS", 50), ("SHAPE_EDITS", 20), ("CAPTIONS", 60), ("EDITS", 20)):
        monkeypatch.setattr(tokenizer_corpus, name, count)
    out = tmp_path / "tokenizer.json"
    command = [
        "tokenizer",
        "--stickers",
        str(sprites),
        "--cache",
        str(tmp_path),
        "--out",
        str(out),
        "--vocabulary",
        "1024",
    ]
    assert exit_code(cli.app, [*command, "--json"]) == DONE
    lengths = json.loads(capsys.readouterr().out.splitlines()[-1])["tokens_per_caption"]
    assert set(lengths) == {"en", "es", "fr", "de", "pt", "zh"} and all(
        1 < length < 20 for length in lengths.values()
    )
    tokenizer = PromptTokenizer.load(out)
    assert tokenizer.vocab_size == 1024
    assert len(tokenizer.tokens("sobre fondo azul")) < len("sobre fondo azul")
    assert exit_code(cli.app, command) == BAD_INPUT
    assert "already exists" in capsys.readouterr().err
