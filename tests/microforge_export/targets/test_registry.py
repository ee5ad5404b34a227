"""Targets: what one needs is checked before anything is read or written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from microforge.errors import MissingExtraError
from microforge_export.build.builder import build
from microforge_export.components.component import SourceModel
from microforge_export.recipes.build_recipe import AVAILABLE_TARGETS, make_recipe
from microforge_export.targets.registry import PACKAGES, VERSIONS, require_packages


def test_every_available_target_says_what_it_needs() -> None:
    assert set(PACKAGES) == set(VERSIONS) == set(AVAILABLE_TARGETS)
    # LiteRT's converter is large and no part of the development environment.
    require_packages([target for target in AVAILABLE_TARGETS if target != "litert"])


@pytest.mark.parametrize(("package", "extra"), [("executorch", "executorch"), ("onnxruntime", "onnx")])
def test_a_missing_package_is_named_with_its_extra_before_anything_is_read_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))

    def load() -> SourceModel:
        raise AssertionError("read")

    recipe = make_recipe(target="onnx,executorch", precision="fp32", sizes=(), tasks="generate")
    with pytest.raises(MissingExtraError, match=rf"{package} is not installed: .*microforge\[{extra}\]"):
        build(recipe, load, tmp_path / "x.mfb")
    assert not list(tmp_path.iterdir())


def test_coreml_is_built_in_fp16_and_the_others_in_fp32_unless_asked_otherwise() -> None:
    recipe = make_recipe(target="onnx,executorch,coreml", precision=None, sizes=())
    assert [target.precision for target in recipe.targets] == ["fp32", "fp32", "fp16"]
    asked = make_recipe(target="onnx,coreml", precision="fp32", sizes=())
    assert [target.precision for target in asked.targets] == ["fp32", "fp32"]
