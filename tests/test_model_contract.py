"""Below the provider, a model is what its manifest says: no code there knows MicroForge's own names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCANNED = (
    "runtimes/microforge_runtimes",
    "export/microforge_export",
    "microforge/bundle",
    "benchmarks/microforge_benchmarks/measure",
)
#: Files that describe MicroForge in the manifest's terms, and one that builds it with random weights.
DESCRIPTIONS = (
    "export/microforge_export/providers/",
    "microforge/bundle/reference_model.py",
    "microforge/bundle/version1.py",
    "benchmarks/microforge_benchmarks/measure/random_bundles.py",
)
#: Words that mean something in MicroForge only, wherever they stand: in names, texts, docstrings and comments.
WORDS = re.compile(
    r"\b(next_plan|has_plan|velocity|velocities|euler|pooled|bos|eos|task_prefix|plan_tokens|denoiser_edit"
    r"|vae_encoder|vae_decoder|text_guidance|image_guidance|guidance_distilled)\b",
    re.IGNORECASE,
)
#: Ordinary words that are names of MicroForge when a text consists of nothing else.
TEXTS = {"plan", "text", "z", "t", "denoiser", "text_encoder", "generate", "edit", "inpaint", "super-resolve", "vary"}  # fmt: skip
#: (file, text) -> why it may stand there.
ALLOWED = {
    ("runtimes/microforge_runtimes/editor.py", "edit"): "method of this name",
    ("runtimes/microforge_runtimes/editor.py", "inpaint"): "method of this name",
    ("runtimes/microforge_runtimes/editor.py", "super-resolve"): "method of this name",
    ("runtimes/microforge_runtimes/editor.py", "vary"): "method of this name",
    ("export/microforge_export/environment.py", "text"): "extra of the package",
    ("benchmarks/microforge_benchmarks/measure/latency.py", "generate"): "kind of measurement",
    ("benchmarks/microforge_benchmarks/measure/worker.py", "generate"): "kind of measurement",
}


def _files() -> list[Path]:
    paths = [path for folder in SCANNED for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in paths if not path.relative_to(ROOT).as_posix().startswith(DESCRIPTIONS)]


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Every string constant of a module, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _findings(name: str, source: str) -> list[str]:
    words = [
        f"{name}:{number}: {match[0]}"
        for number, line in enumerate(source.splitlines(), 1)
        for match in WORDS.finditer(line)
    ]
    texts = [
        f"{name}:{line}: {text!r}"
        for line, text in _texts(source)
        if text in TEXTS and (name, text) not in ALLOWED
    ]
    return words + texts


def test_no_code_below_the_provider_knows_microforge() -> None:
    files = _files()
    assert len(files) > 100
    findings = []
    for path in files:
        findings += _findings(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
    assert not findings, "the manifest says this, so code must not:\n" + "\n".join(findings)


@pytest.mark.parametrize(
    "source",
    [
        'plan = inputs["plan"]',
        "next_plan = outputs[1]",
        '"""One Euler step."""',
        'if task == "inpaint":\n    pass',
        "# the velocity\n",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert _findings("module.py", source)


def test_every_exception_is_still_needed() -> None:
    for name, text in ALLOWED:
        assert text in [value for _, value in _texts((ROOT / name).read_text(encoding="utf-8"))], name
