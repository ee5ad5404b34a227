"""Models on the Hugging Face hub: only the files of checkpoints and bundles, never pickles. No torch.

Downloads go through the cache of ``huggingface_hub``. Its files are links, which a bundle refuses; so a downloaded model
is a folder of hard links to the same files, beside the cache's own folder of that revision.
"""

from __future__ import annotations

import fnmatch
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from microforge.errors import HubError, missing_extra
from microforge.version import __version__

ResultT = TypeVar("ResultT")

#: Every file that a checkpoint or a bundle can have. ``*.bin`` is raw numbers there; elsewhere it may be a pickle.
ALLOWED_FILES = (
    "*.json", "*.md", "LICENSE*", "*.png", "*.safetensors", "*.mfb.zip", "*.toml",
    "onnx/*.onnx", "onnx/*.bin", "executorch/*.pte",
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
        A folder of plain files.

    Raises:
        HubError: when the model or the revision does not exist, or cannot be reached.
        MissingExtraError: when huggingface_hub is not installed.
    """
    _check_name(name)
    api = _api(token)
    snapshot = _call(
        f"cannot download {name}",
        lambda: api.snapshot_download(
            name, revision=revision, cache_dir=cache, allow_patterns=list(ALLOWED_FILES)
        ),
    )
    return _plain_folder(Path(snapshot))


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


def _plain_folder(snapshot: Path) -> Path:
    """A folder with the files of ``snapshot`` (.../snapshots/COMMIT) in place of its links, made once per commit."""
    folder = snapshot.parents[1] / "microforge" / snapshot.name
    names = [name for name in _files(snapshot) if _is_allowed(name)]
    if folder.is_dir():
        if _files(folder) == names:
            return folder
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{snapshot.name}.", dir=folder.parent))
    try:
        for name in names:
            _link_or_copy((snapshot / name).resolve(), work / name)
        os.replace(work, folder)
    except OSError as error:
        if not folder.is_dir():  # another process was faster
            raise HubError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _files(folder: Path) -> list[str]:
    """Relative paths of all files in ``folder``, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _is_allowed(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED_FILES)


def _link_or_copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
