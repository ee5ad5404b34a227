"""The miniature bundle of the runtime's own tests, for what measures bundles."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature bundle of the runtime's own tests, 64 x 96 px."""
    source = Path(__file__).parents[1] / "microforge_runtimes" / "conftest.py"
    spec = importlib.util.spec_from_file_location("runtime_fixtures", source)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.build_bundle(tmp_path_factory.mktemp("bundles") / "mini.mfb")
    return folder
