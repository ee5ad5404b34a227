"""Uploads a model to the Hugging Face hub, whole and with a model card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from microforge.facade.backends import Backend
from microforge.io.hub import upload
from microforge.io.model_card import model_card
from microforge_runtimes.open_model import is_checkpoint

CARD = "README.md"


def publish(
    backend: Backend, name: str, revision: str | None, private: bool, message: str, token: str | None
) -> str:
    """Upload the bundle or checkpoint of ``backend``; arguments, result and errors as ``microforge.io.hub.upload``.

    A checkpoint that leaves modules to a base is uploaded with them. A model without README.md gets a model card.
    """
    path = backend.path
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        if is_checkpoint(path):
            from microforge.checkpoint import copy_whole

            copy_whole(path, folder)
            kind = "checkpoint"
        elif path.is_dir():
            shutil.copytree(path, folder)
            kind = "bundle"
        else:
            folder.mkdir()
            shutil.copyfile(path, folder / path.name)
            kind = "bundle"
        _add_card(folder, path, model_card(name, kind, tuple(backend.tasks), backend.sizes, backend.steps))
        return upload(folder, name, revision, private=private, message=message, token=token)


def _add_card(folder: Path, path: Path, generated: str) -> None:
    """The model's own README.md in ``folder``, or else ``generated``."""
    card = path / CARD
    if card.is_file():
        shutil.copyfile(card, folder / CARD)
    else:
        (folder / CARD).write_text(generated, "utf-8")
