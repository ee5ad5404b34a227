"""Writes the golden files; the same version writes the same contents."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microforge.io.atomic import atomic_bytes
from microforge_benchmarks.conformance.image_cases import image_values
from microforge_benchmarks.conformance.manifest_cases import manifest_lines
from microforge_benchmarks.conformance.noise_cases import noise_values
from microforge_benchmarks.conformance.sampler_cases import sampler_values
from microforge_benchmarks.conformance.strings import strings
from microforge_benchmarks.conformance.tokenizer_cases import token_lines, tokenizer_files

#: Version of the files' formats.
FORMAT = 1


def golden_texts() -> Mapping[str, str]:
    """Path in the folder -> text; what ends in ``.gz`` is stored compressed."""
    tokenizers, texts = tokenizer_files(), strings()
    index = {
        "format": FORMAT,
        "noise": "noise.json",
        "samplers": "samplers.json",
        "manifests": "manifests.jsonl.gz",
        "images": "images.json.gz",
        "tokenizers": {
            name: {
                "tokenizer": f"tokenizers/{name}.json.gz",
                "strings": f"tokenizers/{name}.strings.jsonl.gz",
            }
            for name in tokenizers
        },
    }
    files = {
        "index.json": _json(index),
        "noise.json": _json(noise_values()),
        "samplers.json": _json(sampler_values()),
        "manifests.jsonl.gz": manifest_lines(),
        "images.json.gz": _json(image_values()),
    }
    for name, tokenizer in tokenizers.items():
        files[f"tokenizers/{name}.json.gz"] = tokenizer
        files[f"tokenizers/{name}.strings.jsonl.gz"] = token_lines(tokenizer, texts)
    return files


def write_golden_files(out: Path) -> Mapping[str, int]:
    """Write every golden file into the folder ``out``; files that hold the same text already are left alone.

    Returns:
        Path in the folder -> bytes.
    """
    sizes = {}
    for name, text in golden_texts().items():
        path = out / name
        if not path.is_file() or read_text(path) != text:
            data = _compressed(text) if name.endswith(".gz") else text.encode("utf-8")
            atomic_bytes(path, data, force=True)
        sizes[name] = path.stat().st_size
    return sizes


def read_text(path: Path) -> str:
    """The text of a golden file, decompressed where its name ends in ``.gz``."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")


def _json(values: Any) -> str:
    return json.dumps(values, indent=1) + "\n"


def _compressed(text: str) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=9, mtime=0) as archive:
        archive.write(text.encode("utf-8"))
    return stream.getvalue()
