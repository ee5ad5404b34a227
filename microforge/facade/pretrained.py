"""Opens a model of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from microforge.bundle.manifest import MANIFEST
from microforge.errors import HubError
from microforge.facade.load import load
from microforge.facade.model import Model
from microforge.io.hub import download
from microforge_runtimes.open_model import is_checkpoint


def from_pretrained(
    name: str, *, revision: str | None = None, target: str | None = None, threads: int | None = None,
    device: str | None = None, keep_loaded: bool = True, key: str | Path | None = None,
    cache: str | Path | None = None, token: str | None = None,
) -> Model:  # fmt: skip
    """Download a model of the Hugging Face hub, or find it in the cache, and open it.

    Only the files of checkpoints and bundles are downloaded, and no code is run.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit; the main branch by default.
        target: as in ``microforge.load``.
        threads: as in ``microforge.load``.
        device: as in ``microforge.load``.
        keep_loaded: as in ``microforge.load``.
        key: as in ``microforge.load``.
        cache: folder for downloads; that of ``huggingface_hub`` by default.
        token: access token of a private model; the one that ``hf auth login`` stored by default.

    Raises:
        HubError: when the model or the revision does not exist, cannot be reached, or is no MicroForge model.
        MissingExtraError: when huggingface_hub is not installed: ``pip install 'microforge[hub]'``.
        BundleError: as ``microforge.load``; so CheckpointError and SpecError.
    """
    folder = download(name, revision, cache=cache, token=token)
    path = _model_path(name, folder)
    return load(path, target=target, threads=threads, device=device, keep_loaded=keep_loaded, key=key)


def _model_path(name: str, folder: Path) -> Path:
    """The folder itself when it is a checkpoint or a bundle, or the one archive in it."""
    if is_checkpoint(folder) or (folder / MANIFEST).is_file():
        return folder
    archives = sorted(folder.glob("*.mfb.zip"))
    if len(archives) != 1:
        raise HubError(
            f"{name} is no MicroForge model: it has neither config.json, {MANIFEST} nor one .mfb.zip"
        )
    return archives[0]
