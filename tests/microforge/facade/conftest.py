"""The miniature model as ``microforge.load`` opens it: a checkpoint, and a bundle that ``microforge.export`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import microforge


@pytest.fixture(scope="session")
def from_checkpoint(editing_checkpoint: Path) -> Iterator[microforge.Model]:
    with microforge.load(editing_checkpoint) as model:
        yield model


@pytest.fixture(scope="session")
def from_bundle(editing_bundle: Path) -> Iterator[microforge.Model]:
    with microforge.load(editing_bundle) as model:
        yield model


@pytest.fixture(params=["checkpoint", "bundle"])
def model(
    request: pytest.FixtureRequest, from_checkpoint: microforge.Model, from_bundle: microforge.Model
) -> microforge.Model:
    """The same weights, run by torch and by an inference engine."""
    return from_checkpoint if request.param == "checkpoint" else from_bundle
