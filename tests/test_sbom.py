"""The checks of ``make audit``: the SBOM names every package of the wheel, and every package was looked up."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check_sbom() -> ModuleType:
    return load_script("check_sbom")


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


LOOKED_UP = {"name": "numpy", "version": "2.3.5", "vulns": []}
SKIPPED = {"name": "pillow", "skip_reason": "Dependency not found on PyPI and could not be audited"}
OWN = {"name": "microforge", "skip_reason": "Dependency not found on PyPI and could not be audited"}
VULNERABLE = {"name": "h11", "version": "0.1", "vulns": [{"id": "PYSEC-0"}]}


@pytest.mark.parametrize(
    ("packages", "code", "message"),
    [
        ([LOOKED_UP, OWN], 0, "1 packages, no known vulnerability"),
        ([LOOKED_UP, VULNERABLE, OWN], 1, "known vulnerability of h11: PYSEC-0"),
        ([LOOKED_UP, SKIPPED, OWN], 1, "not looked up: pillow"),
        ([SKIPPED, OWN], 3, "none of 1 packages could be looked up"),
        ([OWN], 3, "none of 0 packages could be looked up"),
    ],
)
def test_packages_that_were_not_looked_up_do_not_pass_as_harmless(
    packages: list[object], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "advisories.json"
    report.write_text(json.dumps({"dependencies": packages}), "utf-8")
    assert load_script("check_advisories").main([str(report), "microforge"]) == code
    assert message in capsys.readouterr().err
