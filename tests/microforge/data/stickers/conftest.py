"""The test's own sprites as a fixture."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight stickers: four subjects in two styles."""
    spec = importlib.util.spec_from_file_location("sprites", Path(__file__).with_name("sprites.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder: Path = module.write_sprites(tmp_path_factory.mktemp("sprites"))
    return folder
