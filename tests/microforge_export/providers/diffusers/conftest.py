"""Folders of tiny random models, each written once per run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> folder written by the library's ``save_pretrained``."""
    pytest.importorskip("diffusers", reason="needs the extra [diffusers]")
    from tests.microforge_export.providers.diffusers.tiny_models import save

    root, written = tmp_path_factory.mktemp("models"), dict[str, Path]()

    def folder(family: str) -> Path:
        if family not in written:
            written[family] = save(family, root / family)
        return written[family]

    return folder
