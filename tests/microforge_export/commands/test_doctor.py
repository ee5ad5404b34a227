"""``mf-export doctor``: exit codes, one line per problem, JSON."""

from __future__ import annotations

import json

import pytest

from microforge.io.console import exit_code
from microforge_export import environment
from microforge_export.cli import app
from microforge_export.environment import Installation, PackageState


@pytest.fixture
def outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with an untested coremltools."""
    packages = (
        PackageState("torch", "==2.13.0", "2.13.0", frozenset({"train", "export"})),
        PackageState("coremltools", "==9.0", "8.3", frozenset({"coreml", "export"})),
    )
    state = Installation("0.2.0", "3.11.7", "Linux", packages)
    monkeypatch.setattr(environment, "read_environment", lambda: state)


@pytest.mark.usefixtures("outdated")
def test_an_untested_version_is_named_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["doctor"]) == 1
    captured = capsys.readouterr()
    assert "error: coremltools is installed in version 8.3; tested: ==9.0" in captured.err
    assert "to mend it: pip install 'coremltools==9.0'" in captured.err
    assert "coreml: not usable" in captured.out and "onnx: usable" in captured.out


@pytest.mark.usefixtures("outdated")
def test_a_version_that_the_named_target_does_not_need_does_not_matter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(app, ["doctor", "--target", "onnx", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["ok"] and values["pip"] == "" and values["targets"]["coreml"] is False
    assert exit_code(app, ["doctor", "--target", "onnx,coreml", "--json"]) == 1
    values = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in values["packages"] if item["matters"]] == ["coremltools"]


def test_an_unknown_target_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["doctor", "--target", "tvm"]) == 2
    assert "allowed: onnx, executorch, coreml" in capsys.readouterr().err
