"""A complete manifest as JSON values, and the changes of it that every runtime must refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from microforge.noise import NOISE_NAME

SIZE = {"height": 64, "width": 96}
FILES = (
    "tokenizer.json",
    "onnx/t.onnx",
    "onnx/d.onnx",
    "onnx/v.onnx",
    "onnx/weights.bin",
    "onnx/extra.bin",
    "golden/run.safetensors",
)
Values = dict[str, Any]
#: The file entry of a path.
EntryOf = Callable[[str], Any]


def fake_entry(path: str) -> Any:
    """An entry of three bytes."""
    return {"path": path, "sha256": "a" * 64, "bytes": 3}


def tensors(**shapes: list[int]) -> list[Values]:
    """Inputs or outputs of a component by name; ``ids`` are int64, all others float32."""
    return [
        {"name": name, "shape": shape, "dtype": "int64" if name == "ids" else "float32"}
        for name, shape in shapes.items()
    ]


def version2_values(entry: EntryOf = fake_entry) -> Values:
    """A manifest of version 2 with one of everything; ``entry(path)`` gives the file entries."""
    encoded = {"kind": "encoded", "encoder": "words", "output": "text"}
    style = {"kind": "encoded", "encoder": "words", "output": "pooled"}
    return {
        "schema_version": 2,
        "model": {"name": "nano", "description": "Test model.", "licence": "MIT", "languages": ["en", "de"], "config": {"depth": [1, 2.5, None]}},
        "bytes": _total(entry, FILES),
        "sizes": [{**SIZE, "latent_shape": [2, 2, 3]}],
        "latent": {"channels": 2, "downsample": 32, "mean": [0.0, 0.1], "std": [1.0, 2.0]},
        "noise": NOISE_NAME,
        "tokenizers": {
            "clip": {
                "file": entry("tokenizer.json"), "length": 8, "prefix": {"generate": [49406], "fill": [49406]}, "suffix": [49407],
                "pad": 49407, "before": "A picture of ",
            }
        },
        "encoders": {
            "words": {"role": "text", "inputs": {"ids": {"kind": "tokens", "tokenizer": "clip"}, "mask": {"kind": "token_mask", "tokenizer": "clip"}}},
            "image": {"role": "encode", "inputs": {"image": {"kind": "image"}}, "latent": "latent"},
        },
        "conditions": {
            "x": {"kind": "latent"},
            "t": {"kind": "time"},
            "context": encoded,
            "extra": {"kind": "concat", "axis": 1, "parts": [
                {"length": 4, "part": style}, {"length": 2, "part": {"kind": "values", "values": [512, 0.5]}}, {"length": 1, "part": {"kind": "zeros"}},
            ]},
            "label": {"kind": "parameter", "parameter": "label"},
            "region": {"kind": "latent_mask"},
        },
        "state": [{"output": "next_memory", "input": "memory", "flag": "has_memory"}],
        "guidance": {"text": {"description": "", "default": 7.5, "low": 0, "high": 20}},
        "parameters": {"label": {"default": 3, "low": 0, "high": 9, "integer": True}},
        "samplers": [
            {"steps": 2, "times": [999, 500], "first": 14.6, "rows": [
                {"u": [1.0], "m": [-0.5], "noise": 0.1, "level": [0.1, 0.9], "clean": [1, -0.9]},
                {"u": [1.0, 0.25], "m": [-0.5, 0.125], "level": [0.5, 0.5]},
            ]},
            {"steps": 2, "strength": 0.5, "times": [500], "first": 0, "rows": [{"u": [1.0], "m": [-0.5], "level": [0.5, 0.5]}]},
            {"steps": 1, "size": SIZE, "times": [999], "first": 1, "rows": [{"u": [1.0], "m": [-1.0], "level": [0, 1]}]},
        ],
        "tasks": {
            "generate": {
                "description": "Make an image.", "network": "denoise", "output": "noise", "prompt": "required",
                "branches": [
                    {"prompt": "user", "weight": {"constant": 0, "scales": {"text": 1}}},
                    {"prompt": "negative", "weight": {"constant": 1, "scales": {"text": -1}}, "unprompted": {"context": {"kind": "zeros"}}},
                ],
            },
            "fill": {
                "network": "denoise", "output": "noise", "prompt": "optional",
                "branches": [{"prompt": "user", "weight": {"constant": 1}, "conditions": {"label": {"kind": "values", "values": [1]}}}],
                "source": {
                    "encoder": "image", "mask": "required", "masked_value": 0.5, "start": {"strength": 0.5}, "preserve_distances": [0.5, 0.9],
                },
            },
        },
        "decode": {"role": "decode", "input": "latent", "output": "image"},
        "preview": {"patch": 1, "matrix": [[1, 0], [0, 1], [0.5, 0.5]], "bias": [0.5, 0.5, 0.5], "psnr_db": 20.5},
        "components": {
            "a": {
                "role": "text", "size": None, "inputs": tensors(ids=[1, 8], mask=[1, 8]), "outputs": tensors(text=[1, 8, 4], pooled=[1, 4]),
            },
            "b": {
                "role": "denoise", "size": SIZE,
                "inputs": [
                    *tensors(x=[1, 2, 2, 3], t=[1], context=[1, 8, 4], extra=[1, 7], label=[1], region=[1, 1, 2, 3], memory=[1, 3, 4], has_memory=[1]),
                    {"name": "adapter", "shape": [1, 16], "dtype": "float16", "default": "zeros"},
                    {"name": "scale", "shape": [2], "dtype": "float32", "default": [0.5, 1]},
                ],
                "outputs": tensors(noise=[1, 2, 2, 3], next_memory=[1, 3, 4]),
            },
            "c": {"role": "decode", "size": SIZE, "inputs": tensors(latent=[1, 2, 2, 3]), "outputs": tensors(image=[1, 3, 64, 96])},
            "d": {"role": "encode", "size": SIZE, "inputs": tensors(image=[1, 3, 64, 96]), "outputs": tensors(latent=[1, 2, 2, 3])},
        },
        "targets": {
            "onnx": {
                "precision": "fp32",
                "bytes": _total(entry, [path for path in FILES if not path.startswith("golden")]),
                "files": {"a": entry("onnx/t.onnx"), "b": entry("onnx/d.onnx"), "c": entry("onnx/v.onnx")},
                "parts": {"c": [entry("onnx/extra.bin")]},
                "shared_files": [entry("onnx/weights.bin")],
                "parity": {"b": {"psnr_db": 90.0, "max_abs": 1e-5, "threshold_db": 60.0}},
                "image": {"max_abs_255": 1, "threshold": 2},
                "tasks": {"fill": {"max_abs_255": 1, "threshold": 2}},
                "quality": {"64x96": {
                    "images": 4, "psnr_median_db": 40, "psnr_worst_db": 30, "guidance_norm_ratio": 1.0, "state_drift": None,
                    "limits": {"psnr_median_db": 30, "psnr_worst_db": 20, "guidance_norm_ratio_low": 0.9, "guidance_norm_ratio_high": 1.1},
                }},
                "operators": {"MatMul": 3},
                "coverage": {"a": {"operators": 3, "delegated": 2, "delegates": 1, "outside": {"Gather": "no kernel"}}},
                "memory": {"a": {"weights": 9, "activations": 3, "peak": 12, "arena": 2}},
                "peaks": {"64x96": {"resident": 20, "staged": 10}},
                "delegated_fraction": 1.0,
            }
        },
        "golden": {
            "components": {"b": entry("golden/run.safetensors")},
            "trajectories": [
                {"task": "generate", "size": SIZE, "prompt": "a red circle", "seed": 0, "file": entry("golden/run.safetensors"), "renamed": {"u": "z"}}
            ],
        },
        "provenance": {"checkpoint_sha256": "0" * 64, "versions": {"torch": "2"}, "created": "2026-01-01T00:00:00Z"},
    }  # fmt: skip


def _total(entry: EntryOf, paths: Any) -> int:
    """Bytes of files, from entries as JSON values or models."""
    entries = [entry(path) for path in paths]
    return sum(item["bytes"] if isinstance(item, dict) else item.bytes for item in entries)


def changed(values: Values, path: str, value: Any) -> bytes:
    """``values`` as JSON text with the value at a dotted path replaced, or removed when it is ``...``."""
    copied: Any = copy.deepcopy(values)
    *parents, last = path.split(".")
    place = copied
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(copied).encode()
