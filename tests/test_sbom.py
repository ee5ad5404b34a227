"""The check of the SBOM that ``make audit`` makes: it names every package that the wheel needs."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"


@pytest.fixture(scope="module")
def check_sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_sbom", ROOT / "scripts" / "check_sbom.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_sbom(path: Path, names: set[str]) -> Path:
    path.write_text(json.dumps({"components": [{"name": name} for name in sorted(names)]}), "utf-8")
    return path


def test_every_dependency_of_the_wheel_is_checked(check_sbom: ModuleType) -> None:
    names = check_sbom.declared(PYPROJECT, ["onnx"])
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    assert {"numpy", "pillow", "pydantic", "tokenizers", "typer", "onnxruntime"} <= names
    assert len(check_sbom.declared(PYPROJECT, [])) == len(project["dependencies"])


def test_an_sbom_with_every_dependency_passes(check_sbom: ModuleType, tmp_path: Path) -> None:
    names = {name.upper().replace("-", "_") for name in check_sbom.declared(PYPROJECT, ["onnx"])}
    sbom = write_sbom(tmp_path / "sbom.json", names | {"click"})
    assert check_sbom.main([str(sbom), str(PYPROJECT), "onnx"]) == 0


def test_an_sbom_that_lacks_any_dependency_is_named(
    check_sbom: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = check_sbom.declared(PYPROJECT, ["onnx"])
    for name in names:
        sbom = write_sbom(tmp_path / "sbom.json", names - {name})
        assert check_sbom.main([str(sbom), str(PYPROJECT), "onnx"]) == 1
        assert capsys.readouterr().err == f"error: {sbom} lacks {name}\n"
