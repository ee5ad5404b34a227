"""The documentation is true: commands parse or run, code runs, links and paths exist, and pages stay readable."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from microforge.version import __version__

ROOT = Path(__file__).parents[1]
CARD = "microforge/pretrained/README.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", CARD)
    for path in ROOT.glob(pattern)
)
#: Pages whose Python runs; that of other pages has placeholders and is compiled, and its imports are resolved.
EXECUTED = ("README.md", "docs/api/index.md", "docs/spec.md")
#: Words of a shell that say nothing about MicroForge.
FOREIGN = {".", "adb", "apt", "cp", "pkg", "proot-distro", "python3", "termux-setup-storage"}
#: Options of all commands, launchers, pip and the tests of reliability.
FOREIGN_OPTIONS = {
    "--help",
    "--strict",
    "--no-deps",
    "--mixed_precision",
    "--nproc_per_node",
    "--num_processes",
    "--tries",  # of tests/reliability
    "--images",
}
#: Modules that are run with ``python -m`` and have options of their own.
MODULES = (
    "microforge.evaluation.reconstruction", "microforge.evaluation.train_classifier", "microforge_benchmarks.evaluate.students",
    "microforge_benchmarks.pictures.showcase", "microforge_benchmarks.studies.arm64.cli",
)  # fmt: skip
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")


def _text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def _blocks(page: str, *languages: str) -> list[str]:
    return [body for _, language, body in _FENCE.findall(_text(page)) if language in languages]


def _prose(page: str) -> str:
    """The page without front matter, code blocks and HTML comments."""
    text = re.sub(r"\A---\n.*?\n---\n", "", _text(page), flags=re.DOTALL)
    return re.sub(r"<!--.*?-->", "", _FENCE.sub("", text), flags=re.DOTALL)


def _command_lines(page: str) -> list[str]:
    """Every shell command of the page's code blocks, continuation lines joined, comments dropped."""
    joined = "\n".join(_blocks(page, "", "sh", "bash")).replace("\\\n", " ")
    lines = (re.sub(r"\s{1,}#.*$", "", line).strip() for line in joined.splitlines())
    starts = r"(mf-|make |make$|pip |python3? |torchrun |accelerate |scripts/|\.venv/|\.ci/|\w*\s?&& )"
    return [line for line in lines if re.match(starts, line)]


COMMANDS = sorted({line for page in PAGES for line in _command_lines(page)})


# A click command; typer brings a click of its own, whose types other versions of typer lack.
Command = Any


def _command(words: list[str]) -> tuple[Command, list[str]]:
    """The project's command that ``words`` start with, and its arguments."""
    scripts = tomllib.loads(_text("pyproject.toml"))["project"]["scripts"]
    if words[0] == "mf-bench" and words[1:2] in (["compare"], ["profile"], ["scaling"], ["against"]):
        modules = {
            "compare": "bench_cli",
            "profile": "studies.image_profile_cli",
            "scaling": "studies.scaling_cli",
            "against": "studies.baselines_cli",
        }
        module = importlib.import_module(f"microforge_benchmarks.{modules[words[1]]}")
        app = module.compare_app if words[1] == "compare" else module.app
        return typer.main.get_command(app), words[2:]
    app = importlib.import_module(scripts[words[0]].split(":")[0]).app
    return typer.main.get_command(app), words[1:]


def _parse(command: Command, name: str, arguments: list[str]) -> None:
    """Parse ``arguments`` as the command line would; raises a usage error for what it refuses."""
    if hasattr(command, "commands"):
        command, name, arguments = command.commands[arguments[0]], arguments[0], arguments[1:]
    command.make_context(name, list(arguments))


def _of_module(words: list[str]) -> list[str]:
    """``python -m MODULE`` and launchers as the words from the module on."""
    return words[words.index("-m") + 1 :]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_accepted(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in line.split(" && "):
        words = shlex.split(part.split(" > ")[0])
        while words and "=" in words[0]:  # variables of the environment
            words.pop(0)
        if words[0].startswith("mf-"):
            command, arguments = _command(words)
            monkeypatch.chdir(tmp_path)
            for name in arguments:
                if name.endswith((".toml", ".json")):
                    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / name).touch()
            _parse(command, words[0], arguments)
        elif words[0] == "make":
            goals = [word for word in words[1:] if "=" not in word]
            assert all(re.search(rf"^{goal}:", _text("Makefile"), re.MULTILINE) for goal in goals), line
        elif words[0] == "pip":
            extras = tomllib.loads(_text("pyproject.toml"))["project"]["optional-dependencies"]
            for names in re.findall(r"\[([\w,-]+)\]", part):
                assert set(names.split(",")) <= set(extras), line
        elif words[0] in FOREIGN:
            continue
        elif "-m" in words:
            module = importlib.import_module(_of_module(words)[0]) if _of_module(words)[0] != "pip" else None
            if module is not None and hasattr(module, "app"):
                _parse(typer.main.get_command(module.app), words[0], _of_module(words)[1:])
        elif words[0].startswith((".", "scripts/", "benchmarks/")):
            assert (ROOT / words[0]).is_file() or words[0].startswith(".venv/bin/"), line
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
        else:
            assert words[0] == ".", f"nothing here can check the command {line!r}"


def test_every_script_is_valid_shell_and_every_curriculum_is_read() -> None:
    from microforge.training.runs.curriculum import read_curriculum

    for path in sorted((ROOT / "scripts").glob("*.sh")):
        assert subprocess.run(["bash", "-n", path]).returncode == 0
    for path in sorted((ROOT / "scripts").glob("*/*.toml")):
        assert len(read_curriculum(path).phases) > 1


@pytest.mark.parametrize("page", EXECUTED)
def test_python_of_a_page_runs_as_written(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = _blocks(page, "python")
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "__main__"})


def _python_blocks() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        if page not in EXECUTED:
            yield from ((page, block) for block in _blocks(page, "python"))


@pytest.mark.parametrize(("page", "block"), list(_python_blocks()))
def test_python_of_a_page_compiles_and_its_imports_resolve(page: str, block: str) -> None:
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES)
def test_toml_and_json_of_a_page_are_valid(page: str) -> None:
    for block in _blocks(page, "toml"):
        tomllib.loads(block)


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_of_a_page_resolve(page: str) -> None:
    broken = []
    for target in _LINK.findall(_FENCE.sub("", _text(page))):
        if ":" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("docs/log.md", "CHANGELOG.md")])
def test_paths_in_a_page_exist(page: str) -> None:
    packages = {
        "microforge_export": "export", "microforge_runtimes": "runtimes", "microforge_benchmarks": "benchmarks",
    }  # fmt: skip
    tops = (
        "microforge",
        "export",
        "runtimes",
        "benchmarks",
        "tests",
        "docs",
        "scripts",
        "examples",
        *packages,
    )
    missing = []
    for code in _CODE.findall(_prose(page)):
        if re.fullmatch(rf"({'|'.join(tops)})/[\w./-]+", code) and not re.search("[A-Z]{4}", code):
            top = code.split("/")[0]
            path = ROOT / packages[top] / code if top in packages else ROOT / code
            missing += [] if path.exists() else [code]
    assert missing == []


def _options(command: Command) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names.union(*(_options(one) for one in getattr(command, "commands", {}).values()))


def test_options_in_pages_exist() -> None:
    lines = (["mf-data"], ["mf-train"], ["mf-export"], ["mf-generate"], ["mf-eval"], ["mf-bench"], ["mf-bench", "compare"],
             ["mf-bench", "profile"], ["mf-bench", "scaling"], ["mf-bench", "against"])  # fmt: skip
    known = set().union(*(_options(_command(list(line))[0]) for line in lines))
    known |= FOREIGN_OPTIONS
    known |= {
        name
        for module in MODULES
        for name in _options(typer.main.get_command(importlib.import_module(module).app))
    }
    unknown = {
        (page, option)
        for page in PAGES
        if page not in ("docs/log.md", "CHANGELOG.md")
        for code in _CODE.findall(_prose(page))
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", code)
        if option not in known
    }
    assert unknown == set()


LIMITS = {"README.md": 90, CARD: 80}


@pytest.mark.parametrize(("page", "limit"), LIMITS.items())
def test_the_front_pages_stay_short(page: str, limit: int) -> None:
    assert len(_text(page).splitlines()) <= limit


@pytest.mark.parametrize("page", LIMITS)
def test_the_front_pages_have_short_sentences(page: str) -> None:
    prose = re.sub(r"^[|#].*$|^ *[-!].*$|^> ?", "\n", _prose(page), flags=re.MULTILINE)
    bullets = re.findall(r"^- .*?(?=\n\S|\n\n|\Z)", _prose(page), re.MULTILINE | re.DOTALL)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in (*prose.split("\n\n"), *bullets)]
    sentences = [one for text in plain for one in re.split(r"(?<=[.!?])\s", " ".join(text.split()))]
    assert [one for one in sentences if len(one.split()) > 30] == []


def _cells(page: str) -> list[str]:
    rows = [line for line in _prose(page).splitlines() if line.lstrip().startswith("|")]
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell.strip()) for row in rows for cell in row.split("|")]


@pytest.mark.parametrize("page", LIMITS)
def test_the_front_pages_have_short_cells_with_one_figure_each(page: str) -> None:
    assert [cell for cell in _cells(page) if len(cell) > 80] == []
    several = re.compile(r"\d[\d.]* (?:%|dB|MB|s)\b.*\d[\d.]* (?:%|dB|MB|s)\b|\d,\s\d.*%")
    assert [cell for cell in _cells(page) if several.search(cell)] == []


def test_the_model_card_has_front_matter_for_the_hub() -> None:
    values = yaml.safe_load(_text(CARD).split("---\n")[1])
    assert values["license"] == "mit" and values["pipeline_tag"] == "text-to-image"
    metrics = [one for result in values["model-index"][0]["results"] for one in result["metrics"]]
    assert len(metrics) >= 4 and all({"type", "name", "value"} <= set(one) for one in metrics)


def test_the_version_is_the_same_in_package_citation_and_changelog() -> None:
    assert yaml.safe_load(_text("CITATION.cff"))["version"] == __version__
    assert f"\n## {__version__}" in _text("CHANGELOG.md")


def test_every_cited_section_of_the_specification_exists() -> None:
    sections = set(re.findall(r"^#+ (\d+a?)\. ", _text("docs/spec.md"), re.MULTILINE))
    folders = ("microforge", "export", "runtimes", "benchmarks", "tests")
    files = [
        path
        for folder in folders
        for suffix in ("py", "toml")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    cited = {
        number
        for path in files
        for number in re.findall(r"\bSPEC(?: section)? (\d+a?)\b", path.read_text("utf-8"))
    }
    assert cited and cited <= sections


def test_every_entry_of_the_log_has_its_four_parts() -> None:
    entries = re.split(r"^### ", _text("docs/log.md"), flags=re.MULTILINE)[1:]
    parts = [re.findall(r"^- \*\*(\w+)\.\*\*", entry, re.MULTILINE) for entry in entries]
    assert len(entries) > 80
    allowed = (["Question", "Setup", "Result", "Decision"], ["Question", "Result", "Decision"])
    wrong = [
        entry.splitlines()[0] for entry, names in zip(entries, parts, strict=True) if names not in allowed
    ]
    assert wrong == []
