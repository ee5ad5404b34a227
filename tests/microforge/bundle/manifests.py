"""Complete manifests of both schema versions as JSON values."""

from __future__ import annotations

from pathlib import Path

from microforge.bundle.files import file_entry, write_manifest
from microforge.bundle.manifest import Manifest
from microforge.noise import NOISE_NAME
from microforge_benchmarks.conformance.manifest_example import (
    FILES,
    SIZE,
    EntryOf,
    Values,
    changed,
    fake_entry,
    tensors,
    version2_values,
)

__all__ = ["FILES", "SIZE", "changed", "fake_entry", "version1_values", "version2_values", "write_bundle"]


def version1_values(entry: EntryOf = fake_entry) -> Values:
    """A manifest of version 1; ``entry(path)`` gives the file entries."""
    text = {"role": "text_encoder", "size": None, "inputs": tensors(ids=[1, 8], mask=[1, 8])}
    denoiser = {"role": "denoiser", "size": SIZE, "inputs": tensors(z=[1, 2, 2, 3], t=[1], text=[1, 8, 4])}
    decoder = {"role": "vae_decoder", "size": SIZE, "inputs": tensors(latent=[1, 2, 2, 3])}
    return {
        "schema_version": 1,
        "model": {"name": "nano", "latent": [1, 2.5, None]},
        "tasks": ["generate"],
        "sizes": [{**SIZE, "latent_shape": [2, 2, 3]}],
        "sampler": {"timesteps": [1.0, 0.5, 0.0], "guidance": {"text": 3.5, "image": 1.5}, "prediction": "velocity"},
        "latent": {"channels": 2, "downsample": 32, "mean": [0.0, 0.1], "std": [1.0, 2.0]},
        "noise": NOISE_NAME,
        "tokenizer": {
            "file": entry("tokenizer.json"), "max_length": 8, "pad": 0, "bos": 1, "eos": 2,
            "task_prefixes": {"generate": 4},
        },
        "components": {
            "a": {**text, "outputs": tensors(text=[1, 8, 4], pooled=[1, 4])},
            "b": {**denoiser, "outputs": tensors(velocity=[1, 2, 2, 3])},
            "c": {**decoder, "outputs": tensors(image=[1, 3, 64, 96])},
        },
        "targets": {
            "onnx": {
                "precision": "fp32",
                "files": {"a": entry("onnx/t.onnx"), "b": entry("onnx/d.onnx"), "c": entry("onnx/v.onnx")},
                "parts": {"c": [entry("onnx/extra.bin")]},
                "shared_files": [entry("onnx/weights.bin")],
                "parity": {"b": {"psnr_db": 90.0, "max_abs": 1e-5, "threshold_db": 60.0}},
                "image": {"max_abs_255": 1, "threshold": 2},
                "operators": {"MatMul": 3},
                "coverage": {"a": {"operators": 3, "delegated": 2, "delegates": 1, "outside": {"Gather": "no kernel"}}},
                "memory": {"a": {"weights": 9, "activations": 3, "peak": 12, "arena": 2}},
                "delegated_fraction": 1.0,
            }
        },
        "golden": {
            "components": {"b": entry("golden/run.safetensors")},
            "trajectories": [
                {"task": "generate", "size": SIZE, "prompt": "a red circle", "seed": 0, "file": entry("golden/run.safetensors")}
            ],
        },
        "provenance": {"checkpoint_sha256": "0" * 64, "versions": {"torch": "2"}, "created": "2026-01-01T00:00:00Z"},
    }  # fmt: skip


def write_bundle(folder: Path) -> Path:
    """A bundle of version 2 with files of a few bytes."""
    for path in FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(f"contents of {path}".encode())
    write_manifest(
        folder, Manifest.model_validate(version2_values(lambda path: file_entry(folder, path).model_dump()))
    )
    return folder
