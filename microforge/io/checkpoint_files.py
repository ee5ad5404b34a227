"""The files of a checkpoint's folder: what lies there when they do not, said in one line. No torch."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from microforge.errors import CheckpointError
from microforge.io.file_kind import HEAD_BYTES, file_kind, with_article
from microforge.io.user_file import UnusableFileError, check_regular_file

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
_WHOLE = f"a checkpoint is a folder with {CONFIG} and {WEIGHTS}"
#: (what a file's name may be, what such a file is): weights of other layouts, in the order in which they are named.
_OTHER_WEIGHTS = (
    (
        "*.safetensors.index.json",
        "is the index of weights in several parts, which are not read: join them into one file",
    ),
    ("model-*-of-*.safetensors", "is one part of several, which are not read: join them into one file"),
    ("diffusion_pytorch_model*", "is a model of diffusers in its own layout, which is not read"),
    ("pytorch_model*.bin", "is a Python pickle, which is never read: save the weights as safetensors"),
    ("*.bin", "may be a Python pickle, which is never read: save the weights as safetensors"),
    ("*.ckpt", "is a Python pickle, which is never read: save the weights as safetensors"),
    ("*.pt", "is a Python pickle, which is never read: save the weights as safetensors"),
    ("*.pth", "is a Python pickle, which is never read: save the weights as safetensors"),
    ("model_index.json", "belongs to a pipeline of diffusers, which is not read"),
    ("manifest.json", "belongs to a bundle, which mf-generate and microforge.load open"),
    ("*.safetensors", f"is not called {WEIGHTS}"),
    ("*.gguf", "is a file of GGUF, which is not read"),
    ("*/" + WEIGHTS, "lies in a folder below: pass that one"),
)


def check_folder(folder: Path) -> None:
    """Check that ``folder`` holds a configuration and weights, as regular files or links to them.

    Raises:
        CheckpointError: otherwise; names what lies there instead.
    """
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.lexists(folder) else "no such checkpoint folder"
        raise CheckpointError(f"{folder}: {what}; {_WHOLE}")
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        if not os.path.lexists(path):
            raise CheckpointError(f"{folder}: the checkpoint has no {name}{_instead(folder)}; {_WHOLE}")
        try:
            check_regular_file(path)
        except UnusableFileError as error:
            raise CheckpointError(f"{path} {error}; {_WHOLE}") from None
        except OSError as error:  # a dangling link
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


def unreadable_weights(path: Path, error: Exception) -> str:
    """Why the safetensors file ``path``, whose reader raised ``error``, cannot be used; begins with a verb."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
        size = path.stat().st_size
    except OSError as failure:
        return f"cannot be read: {failure.strerror or failure}"
    kind = file_kind(head)
    header = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
    if head[8:9] == b"{" and 0 < header < 100 << 20:  # a safetensors file after all
        return f"is damaged or truncated at {size} bytes ({_reason(error)}); copy or train it again"
    if kind == "zip archive":
        kind = "zip archive (a Python pickle of torch.save?)"
    if kind.startswith("unknown"):
        return f"is damaged or no safetensors file ({_reason(error)}); copy or train it again"
    return f"is {with_article(kind)}, not a safetensors file; download or copy it again"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _instead(folder: Path) -> str:
    for pattern, what in _OTHER_WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            return f"; {path.relative_to(folder).as_posix()} {what}"
    return ""
