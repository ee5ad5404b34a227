"""Reads a folder in diffusers' format: what it holds, and what is wrong with it, before anything is loaded.

Weights are safetensors, single or sharded. Pickle files and code in the folder are never opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from microforge.errors import CheckpointError, SpecError

MODEL_INDEX = "model_index.json"
#: Pipelines that can be exported.
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LatentConsistencyModelPipeline")
#: Parts of a pipeline that have weights: name -> classes that can be exported.
PARTS: Mapping[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
#: Parts that change nothing in an image from a prompt.
_IGNORED = ("safety_checker", "feature_extractor", "image_encoder")
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
_LFS = b"version https://git-lfs"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class WeightFiles:
    """The weights of one part; ``variant`` is the part of the names that says "fp16"."""

    folder: Path
    files: tuple[Path, ...]
    variant: str | None


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be loaded. ``ignored`` are parts that are left out of the bundle."""

    path: Path
    pipeline: str
    parts: Mapping[str, WeightFiles]
    ignored: tuple[str, ...]

    def sha256(self) -> str:
        """Hash of all weights and configurations, by their place in the folder."""
        digest = hashlib.sha256()
        configurations = [item.folder / "config.json" for item in self.parts.values()]
        for file in sorted({*(file for item in self.parts.values() for file in item.files), *configurations}):
            with file.open("rb") as stream:
                digest.update(f"{file.parent.name}/{file.name}".encode())
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()


def is_diffusers_folder(folder: Path) -> bool:
    """Whether ``folder`` is meant to be a diffusers pipeline."""
    return (folder / MODEL_INDEX).is_file()


def read_folder(folder: Path) -> ModelFolder:
    """What ``folder`` holds.

    Raises:
        CheckpointError: when something is missing or damaged; names the file and what to do.
        SpecError: for a pipeline or a part that cannot be exported; lists what can.
    """
    index = _json(folder / MODEL_INDEX)
    name = index.get("_class_name")
    _check_code(folder, index)
    if name not in PIPELINES:
        raise SpecError(f"{folder} holds a {name}; pipelines that can be exported: {', '.join(PIPELINES)}")
    wanted = [part for part in PARTS if part != "text_encoder_2" or name == "StableDiffusionXLPipeline"]
    for part in wanted:
        _check_class(folder, part, index.get(part))
    parts = {part: weight_files(folder / part) for part in wanted}
    for tokenizer in ("tokenizer", *(["tokenizer_2"] if "text_encoder_2" in wanted else [])):
        if not any((folder / tokenizer / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise CheckpointError(
                f"{folder / tokenizer} has no tokenizer.json and no vocab.json with merges.txt; copy the folder "
                f"{tokenizer} of the original model"
            )
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise CheckpointError(
            f"{folder} has no scheduler/scheduler_config.json; copy it from the original model, which needs it to sample"
        )
    ignored = tuple(part for part in _IGNORED if index.get(part, (None, None))[1] is not None)
    return ModelFolder(folder, str(name), parts, ignored)


def weight_files(folder: Path) -> WeightFiles:
    """The safetensors files of one part.

    Raises:
        CheckpointError: when they are missing, incomplete, pickle files, or pointers of git-lfs.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder.parent} has no folder {folder.name}; download the whole model")
    _json(folder / "config.json")
    for variant in (None, "fp16"):
        for stem in _WEIGHT_STEMS:
            files = _files_of(folder, stem if variant is None else f"{stem}.{variant}", variant)
            if files:
                for file in files:
                    _check_safetensors(file)
                return WeightFiles(folder, files, variant)
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"{folder} has its weights as {pickles[0]} only, a pickle file, which can run code when it is opened; convert the "
            "model with pipeline.save_pretrained(FOLDER, safe_serialization=True)"
        )
    raise CheckpointError(
        f"{folder} has no weights; it needs {_WEIGHT_STEMS[folder.name.startswith('text')]}.safetensors"
    )


def _files_of(folder: Path, stem: str, variant: str | None) -> tuple[Path, ...]:
    single = folder / f"{stem}.safetensors"
    if single.is_file():
        return (single,)
    plain = stem.removesuffix(f".{variant}")
    names = (f"{stem}.safetensors.index.json", f"{plain}.safetensors.index.{variant}.json")
    index = next((folder / name for name in names if (folder / name).is_file()), None)
    if index is None:
        return ()
    shards = sorted(set(_json(index).get("weight_map", {}).values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {missing[0]}, one of {len(shards)} files that {index.name} lists; download it"
        )
    return tuple(folder / name for name in shards)


def _check_safetensors(file: Path) -> None:
    with file.open("rb") as stream:
        head = stream.read(64)
        if head.startswith(_LFS):
            raise CheckpointError(
                f"{file} is a pointer of git-lfs, not the weights; run git lfs pull in the folder"
            )
        length = int.from_bytes(head[:8], "little")
        size = file.stat().st_size
        stream.seek(8)
        try:
            header = json.loads(stream.read(length)) if 8 + length <= size else {}
            ends = [item["data_offsets"][1] for key, item in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            ends = []
    if not ends or 8 + length + max(ends, default=0) != size:
        raise CheckpointError(f"{file} is damaged or incomplete ({size} bytes); download it again")


def _check_class(folder: Path, part: str, entry: Any) -> None:
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if name is None:
        raise CheckpointError(f"{folder / MODEL_INDEX} names no {part}; needed: {' or '.join(PARTS[part])}")
    if name not in PARTS[part]:
        raise SpecError(f"{folder} has a {part} of class {name}; can be exported: {', '.join(PARTS[part])}")


def _check_code(folder: Path, index: Mapping[str, Any]) -> None:
    custom = next(
        (
            part
            for part, entry in index.items()
            if isinstance(entry, list) and entry and entry[0] not in (None, "diffusers", "transformers", "stable_diffusion")
        ),
        None,
    )  # fmt: skip
    name = index.get("_class_name")
    if isinstance(name, list) or custom is not None:
        raise SpecError(
            f"{folder} needs code of its own ({custom or MODEL_INDEX}), which is never run; export a model of diffusers' classes"
        )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; download the whole model in diffusers' format"
        )
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value
