"""The miniature bundle of the runtime's own tests, for what measures bundles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from microforge.spec import TASKS


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature bundle of the runtime's own tests, 64 x 96 px."""
    folder: Path = _fixtures().build_bundle(tmp_path_factory.mktemp("bundles") / "mini.mfb")
    return folder


@pytest.fixture(scope="session")
def editing_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with all four tasks."""
    folder: Path = _fixtures().build_bundle(tmp_path_factory.mktemp("bundles") / "four.mfb", tasks=TASKS)
    return folder


def _fixtures() -> Any:
    source = Path(__file__).parents[1] / "microforge_runtimes" / "conftest.py"
    spec = importlib.util.spec_from_file_location("runtime_fixtures", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
