"""The distribution: a wheel that works from any folder, holds its data, and one version number."""

from __future__ import annotations

import subprocess
import sys
import tomllib
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
