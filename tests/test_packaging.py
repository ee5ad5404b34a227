"""The distribution: a wheel that works from any folder, holds its data, and one version number."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import microforge

ROOT = Path(__file__).parents[1]


def _run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONNOUSERSITE": "1"}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel; hatchling comes with the dev extra, so this needs no network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(folder), str(ROOT),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("microforge-*.whl")
    return path


def test_the_wheel_holds_the_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"microforge", "microforge_benchmarks", "microforge_export", "microforge_runtimes"}
    shipped = ROOT / "microforge" / "pretrained"
    here = [path.relative_to(ROOT).as_posix() for path in shipped.rglob("*") if path.is_file()]
    assert len(here) > 5 and set(here) <= set(names)
    assert "microforge/evaluation/classifier.safetensors" in names
    assert "microforge/training/curricula/tiny.toml" in names


def test_the_installed_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    assert _run(sys.executable, *install, cwd=tmp_path).returncode == 0
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import microforge, microforge_runtimes.generator, microforge.tokenizer\n"
        "microforge.tokenizer.PromptTokenizer.load()\n"
        "print(microforge.__version__, microforge.__file__, microforge_runtimes.__file__, 'torch' in sys.modules)"
    )
    done = _run(sys.executable, "-c", code, cwd=tmp_path)
    version, first, second, torch = done.stdout.split()
    assert version == microforge.__version__ and torch == "False", done.stderr
    assert Path(first).is_relative_to(site) and Path(second).is_relative_to(site)


def test_every_command_answers_help_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    assert _run(sys.executable, *install, cwd=tmp_path).returncode == 0
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    for command, entry in scripts.items():
        module, function = entry.split(":")
        code = f"import sys; sys.path.insert(0, {str(site)!r}); import {module} as m; m.{function}()"
        done = _run(sys.executable, "-c", code, "--help", cwd=tmp_path)
        assert done.returncode == 0 and "Usage" in done.stdout, (command, done.stderr)
        assert (site / "bin" / command).is_file()


def test_help_imports_nothing_that_takes_time() -> None:
    """What keeps ``--help`` under half a second; a clock would measure the machine."""
    heavy = (
        "torch",
        "numpy",
        "PIL",
        "pydantic",
        "tokenizers",
        "onnx",
        "onnxruntime",
        "matplotlib",
        "transformers",
    )
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    for command, entry in scripts.items():
        module, function = entry.split(":")
        code = (
            f"import sys, {module} as m\n"
            f"try: m.{function}()\n"
            f"except SystemExit: print([name for name in {heavy} if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.splitlines()[-1] == "[]", (command, done.stdout, done.stderr)


def test_mypy_knows_the_types_of_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """Installs the wheel into an environment of its own and runs mypy, which takes seconds."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel)
    assert _run(sys.executable, *install, cwd=tmp_path).returncode == 0
    for package in ("microforge", "microforge_benchmarks", "microforge_export", "microforge_runtimes"):
        assert (site / package / "py.typed").is_file()
    snippet = tmp_path / "snippet.py"
    snippet.write_text(
        "import microforge\n"
        "model = microforge.load()\n"
        "reveal_type(model)\n"
        "reveal_type(model.generate('a red circle').seconds)\n"
        "model.generate(seed=1)\n",
        "utf-8",
    )
    check = ("-m", "mypy", "--strict", "--python-executable", home / "bin" / "python", snippet)
    done = _run(sys.executable, *check, cwd=tmp_path)
    assert 'Revealed type is "microforge.facade.model.Model"' in done.stdout, done.stdout + done.stderr
    assert 'Revealed type is "float"' in done.stdout or 'Revealed type is "builtins.float"' in done.stdout
    assert 'Missing positional argument "prompt"' in done.stdout
