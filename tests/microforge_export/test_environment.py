"""The tested versions are those of the distribution's extras, and what differs is named with its remedy."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.bundle.targets import TargetName
from microforge_export.environment import Installation, pip_line, read_environment

#: As a build backend that keeps references between extras writes them.
REQUIREMENTS = (
    "numpy<2.4,>=1.26",
    'torch==2.13.0; extra == "train"',
    'onnxruntime>=1.20; extra == "onnx"',
    'executorch==1.5.1; extra == "executorch"',
    'torch==2.13.0; extra == "executorch"',
    'coremltools==9.0; extra == "coreml"',
    'microforge[coreml,executorch,onnx,train]; extra == "export"',
    'onnx==1.23.*; extra == "export"',
    'microforge[export]; extra == "text"',
    'transformers==4.57.*; extra == "text"',
    'uvloop>1; extra == "train" and sys_platform == "no-such-system"',
)
TESTED = {
    "numpy": "2.3.5", "torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "executorch": "1.5.1", "coremltools": "9.0",
    "onnx": "1.23.2", "transformers": "4.57.1",
}  # fmt: skip


def environment(**changes: str | None) -> Installation:
    installed: Mapping[str, str | None] = {**TESTED, **changes}
    return read_environment(REQUIREMENTS, installed.get)


def names(environment: Installation, *targets: TargetName) -> list[str]:
    return [item.name for item in environment.problems(targets)]


def test_an_installation_of_tested_versions_has_no_problem() -> None:
    complete = environment()
    assert {item.name for item in complete.packages} == set(TESTED)
    assert {item.status for item in complete.packages} == {"tested"}, "a local version is a tested one"
    assert complete.problems() == () and pip_line(()) == ""


def test_what_a_target_needs_follows_from_the_extras() -> None:
    needed = {
        target: {item.name for item in environment().needed_for(target)}
        for target in ("onnx", "executorch", "coreml")
    }
    assert needed == {
        "onnx": {"numpy", "torch", "onnxruntime", "onnx"},
        "executorch": {"numpy", "torch", "executorch"},
        "coreml": {"numpy", "torch", "coremltools"},
    }


def test_another_version_is_a_problem_of_the_targets_that_need_it() -> None:
    other = environment(coremltools="8.3", numpy="2.4.0")
    assert names(other) == ["numpy", "coremltools"]
    assert names(other, "onnx") == ["numpy"]
    assert not other.usable("coreml") and not other.usable("onnx")
    assert pip_line(other.problems()) == "pip install 'numpy<2.4,>=1.26' 'coremltools==9.0'"


def test_a_missing_package_is_a_problem_only_where_it_is_needed() -> None:
    partial = environment(coremltools=None, transformers=None)
    assert names(partial) == [] and partial.usable("onnx") and not partial.usable("coreml")
    assert names(partial, "coreml") == ["coremltools"]
    assert names(environment(onnx=None)) == ["onnx"]


@given(st.sampled_from(sorted(TESTED)), st.sampled_from([None, "0.0.1", "99.0"]))
def test_every_problem_is_mended_by_what_the_pip_line_names(name: str, version: str | None) -> None:
    for item in environment(**{name: version}).problems(("onnx", "executorch", "coreml")):
        assert item.name == name and item.requirement in pip_line([item])


@pytest.mark.parametrize("name", ["torch", "onnx", "onnxruntime", "executorch", "coremltools", "numpy"])
def test_the_installed_distribution_states_what_it_was_tested_with(name: str) -> None:
    states = {item.name: item for item in read_environment().packages}
    assert states[name].tested
