"""Help, pages and docstrings speak plain English with the field's terms (docs/glossary.md)."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
SOURCES = (
    "microforge",
    "export/microforge_export",
    "runtimes/microforge_runtimes",
    "benchmarks/microforge_benchmarks",
)
#: Commands that are no entry of ``[project.scripts]``: module, name of the app.
OTHER_APPS = (
    ("microforge_benchmarks.bench_cli", "compare_app"),
    ("microforge_benchmarks.studies.scaling_cli", "app"),
    ("microforge_benchmarks.studies.baselines_cli", "app"),
    ("microforge_benchmarks.evaluate.students", "app"),
    ("microforge_benchmarks.pictures.showcase", "app"),
    ("microforge.evaluation.train_classifier", "app"),
)  # fmt: skip
#: The log keeps its history; the glossary quotes what it forbids.
EXEMPT = ("docs/log.md", "docs/glossary.md", "CHANGELOG.md")
#: Pattern -> what to write instead.
DENIED = {
    r"\bof before\b|\bthe (student|teacher|recipe)s? before\b": "previous student, earlier run",
    r"\bwho draws\b": "the checkpoint that generates the samples",
    r"\bby a hair\b": "chaotic prompt, mode flip",
    r"\bso (many|much) (?!that|as|of the)": "the number itself",
    r"\b(is|are|was|were|be|been|not) told\b|\btold (by|apart|from)\b": "is given, follows from",
    r"\bno words( at all)?\b|\bwithout (any )?words\b|\bof no words\b": "empty prompt",
    r"\bdrawers?\b": "per-task teacher, open model",
    r"\bfaithful\b": "accepted by rejection sampling",
    r"\bown[- ]rollouts?\b": "on-policy rollout",
    r"\bdrawings?\b": "sample, generated image",
    r"\bredrawn?\b|\bdrawn\b(?! (from|at random|uniformly))": "generated, rendered, sampled",
    r"\bholes?\b": "mask",
    r"\bislands?\b": "mixed-precision keep-list",
    r"\b(conditioning )?survival\b": "guidance-norm ratio",
    r"\bvague\b": "ambiguous prompt",
    r"\brivals?\b": "baselines",
    r"\bguidance (is |was )?folded\b|\bfolded( in(to)?)? (guidance|weights)\b": "guidance-distilled",
    r"\bturns? (an image|of them)\b|\bimages? that INT8 turns\b": "mode flip",
}  # fmt: skip


def _pages() -> Iterator[tuple[str, str]]:
    for pattern in ("*.md", "docs/**/*.md", "microforge/pretrained/README.md", "examples/**/*.md"):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if name not in EXEMPT:
                yield name, path.read_text("utf-8")


def _docstrings() -> Iterator[tuple[str, str]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
                if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                    yield f"{name}:{getattr(node, 'lineno', 1)}", text


def _comments() -> Iterator[tuple[str, str]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if match := re.search(r"(?:^|\s)#:? (.*)$", line):
                    yield f"{name}:{number}", match[1]


def _help(command: Any, name: str) -> Iterator[tuple[str, str]]:
    yield name, " ".join(filter(None, (command.help, command.short_help, command.epilog)))
    for parameter in command.params:
        yield f"{name} {parameter.name}", str(getattr(parameter, "help", "") or "")
    for child_name, child in getattr(command, "commands", {}).items():
        yield from _help(child, f"{name} {child_name}")


def _helps() -> Iterator[tuple[str, str]]:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    apps = [(entry.split(":")[0], "app") for entry in scripts.values()]
    for module, app in (*apps, *OTHER_APPS):
        yield from _help(typer.main.get_command(getattr(importlib.import_module(module), app)), module)


@pytest.mark.parametrize(
    "source", [_pages, _docstrings, _comments, _helps], ids=lambda source: source.__name__
)
def test_text_holds_no_denied_phrase(source: Any) -> None:
    hits = [
        f"{where}: {match[0]!r}; write: {instead}"
        for where, text in source()
        for pattern, instead in DENIED.items()
        for match in re.finditer(pattern, " ".join(text.split()), re.IGNORECASE)
    ]
    assert hits == [], f"{len(hits)} phrases\n" + "\n".join(hits)
