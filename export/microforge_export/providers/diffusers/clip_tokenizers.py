"""CLIP's tokenizers as ``tokenizer.json`` files with a frame, checked against the pipeline's own token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microforge.bundle.files import file_entry
from microforge.bundle.inputs import Tokenizer
from microforge.errors import CheckpointError
from microforge_runtimes.tokenization import FramedTokenizer

_CHECKED = ("a photo of an astronaut riding a horse on mars", "Café, naïve!  2 cats", "x" * 40 + " red" * 90)


def write_tokenizer(tokenizer: Any, folder: Path, name: str) -> Path:
    """Write ``NAME.json`` in Hugging Face's format to ``folder``."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"{tokenizer.name_or_path} is no fast tokenizer; save it with tokenizer.json")
    path = folder / f"{name}.json"
    path.write_text(backend.to_str(), "utf-8")
    return path


def framed(tokenizer: Any, path: Path, tasks: Sequence[str]) -> Tokenizer:
    """The manifest's entry: begin token, ids, end token, padding to the pipeline's length.

    Raises:
        CheckpointError: when the frame does not give the pipeline's token ids.
    """
    length = int(tokenizer.model_max_length)
    empty = _ids(tokenizer, "", length)
    prefix, suffix = (empty[0],), (int(tokenizer.eos_token_id),)
    entry = Tokenizer(
        file=file_entry(path.parent, path.name), length=length, prefix={task: prefix for task in tasks}, suffix=suffix,
        pad=empty[-1],
    )  # fmt: skip
    runtime = FramedTokenizer(entry, path)
    for text in (None, *_CHECKED):
        if runtime.encode(text, tasks[0]).ids.tolist() != _ids(tokenizer, text or "", length):
            raise CheckpointError(
                f"{tokenizer.name_or_path}: its token ids for {text or ''!r} are not those of a CLIP tokenizer; only "
                "CLIP's tokenizer can be exported with this text encoder"
            )
    return entry


def _ids(tokenizer: Any, text: str, length: int) -> list[int]:
    ids = tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids
    return [int(value) for value in ids]
