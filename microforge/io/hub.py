"""Models on the Hugging Face hub: only the files of checkpoints and bundles, never pickles. No torch."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from microforge.errors import HubError, missing_extra
from microforge.version import __version__

ResultT = TypeVar("ResultT")

#: Every file that a checkpoint or a bundle can have. ``*.bin`` is raw numbers there; elsewhere it may be a pickle.
ALLOWED_FILES = (
    "*.json", "*.md", "LICENSE*", "*.png", "*.safetensors", "*.mfb.zip", "*.toml",
    "onnx/*.onnx", "onnx/*.bin", "executorch/*.pte", "litert/*.tflite",
    "coreml/*.mlpackage/*.mlmodel", "coreml/*.mlpackage/*.bin",
)  # fmt: skip
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def is_hub_name(text: str) -> bool:
    """Whether ``text`` has the form ``owner/name`` of a model on the hub."""
    return _NAME.fullmatch(text) is not None and ".." not in text and not text.startswith((".", "-"))


def download(
    name: str, revision: str | None = None, *, cache: str | Path | None = None, token: str | None = None
) -> Path:
    """Download a model, or find it in the cache.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit; the main branch by default.
        cache: folder of the cache; the one of ``huggingface_hub`` by default.
        token: access token; the one that ``hf auth login`` stored by default.

    Returns:
        The model's folder in the cache.

    Raises:
        HubError: when the model or the revision does not exist, or cannot be reached.
        MissingExtraError: when huggingface_hub is not installed.
    """
    _check_name(name)
    api = _api(token)
    patterns = list(ALLOWED_FILES)
    folder = _call(
        f"cannot download {name}",
        lambda: api.snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns=patterns),
    )
    return Path(folder)


def upload(
    folder: str | Path, name: str, revision: str | None = None, *, private: bool = False,
    message: str = "Upload with microforge", token: str | None = None,
) -> str:  # fmt: skip
    """Upload the model files of ``folder`` as one commit; the repository is made when it does not exist.

    Args:
        folder: of a checkpoint or a bundle; other files in it stay here.
        name: ``owner/name``.
        revision: an existing branch; the main branch by default.
        private: whether a repository that is made now is private.
        message: of the commit.
        token: access token that may write; the one that ``hf auth login`` stored by default.

    Returns:
        Address of the commit.

    Raises:
        HubError: when the hub refuses it or cannot be reached.
        MissingExtraError: when huggingface_hub is not installed.
    """
    _check_name(name)
    api = _api(token)

    def push() -> Any:
        api.create_repo(name, private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=name, folder_path=folder, revision=revision, commit_message=message,
            allow_patterns=list(ALLOWED_FILES),
        )  # fmt: skip

    return str(_call(f"cannot upload {name}", push).commit_url)


def _check_name(name: str) -> None:
    if not is_hub_name(name):
        raise HubError(f"{name!r} is no model of the hub; give it as owner/name")


def _api(token: str | None) -> Any:
    try:
        library = importlib.import_module("huggingface_hub")
    except ImportError:
        raise missing_extra("huggingface_hub", "hub") from None
    endpoint = os.environ.get(
        "HF_ENDPOINT"
    )  # a mirror or a private hub; the library reads it only when imported
    return library.HfApi(
        endpoint=endpoint, token=token, library_name="microforge", library_version=__version__
    )


def _call(what: str, request: Callable[[], ResultT]) -> ResultT:
    """The result of ``request``; the library's many errors become one line."""
    try:
        return request()
    except (OSError, ValueError) as error:  # HTTP errors are OSErrors, refused names are ValueErrors
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise HubError(f"{what}: {reason}") from None
