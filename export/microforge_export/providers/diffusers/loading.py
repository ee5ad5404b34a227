"""Loads the pipeline of a folder in float32, part by part, so that every weight is accounted for."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from microforge.errors import CheckpointError, SpecError
from microforge_export.providers.diffusers.folder import PARTS, ModelFolder, WeightFiles, weight_files


@dataclass(frozen=True)
class Lora:
    """A LoRA file that is added to the weights, times ``scale``."""

    file: Path
    scale: float


def parse_lora(text: str) -> Lora:
    """``FILE`` or ``FILE:SCALE``.

    Raises:
        SpecError: for a scale that is no number.
    """
    name, _, scale = text.rpartition(":")
    if not name or Path(text).is_file():
        return Lora(Path(text), 1.0)
    try:
        return Lora(Path(name), float(scale))
    except ValueError:
        raise SpecError(f"--lora {text}: the scale {scale!r} is no number; write FILE or FILE:0.8") from None


def load_pipeline(
    folder: ModelFolder, scheduler: str | None = None, vae: Path | None = None, loras: tuple[Lora, ...] = ()
) -> Any:
    """The pipeline of ``folder`` in float32, without a safety checker.

    Args:
        folder: as ``read_folder`` found it.
        scheduler: class that takes the place of the folder's own, with the same configuration.
        vae: folder of an autoencoder that takes the place of the folder's own.
        loras: files that are folded into the weights.

    Raises:
        CheckpointError: for weights that do not fit their configuration, or cannot be read.
        SpecError: for a scheduler that the library does not have.
    """
    import diffusers

    with quiet_library():
        parts = {name: _load_part(name, files) for name, files in folder.parts.items() if name != "vae"}
        parts["vae"] = _load_part("vae", folder.parts["vae"] if vae is None else _vae_files(vae))
        parts["scheduler"] = _scheduler(folder.path, scheduler)
        kind = getattr(diffusers, folder.pipeline)
        for name in ("safety_checker", "feature_extractor", "image_encoder"):
            if name in kind._optional_components:
                parts[name] = None
        pipeline = kind.from_pretrained(folder.path, local_files_only=True, use_safetensors=True, **parts)
        pipeline.set_progress_bar_config(disable=True)
        for lora in loras:
            _fold(pipeline, lora)
    for name in folder.parts:
        getattr(pipeline, name).requires_grad_(False).eval()
    return pipeline


@contextmanager
def quiet_library() -> Iterator[None]:
    """Without the remarks that diffusers and transformers make while they load."""
    import diffusers
    import transformers

    before = diffusers.utils.logging.get_verbosity(), transformers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.set_verbosity(logging.CRITICAL)
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        diffusers.utils.logging.set_verbosity(before[0])
        transformers.utils.logging.set_verbosity(before[1])


def _load_part(name: str, files: WeightFiles) -> Any:
    import diffusers
    import transformers

    library: Any = transformers if name.startswith("text_encoder") else diffusers
    kind = getattr(library, _class_name(name, files.folder))
    dtype = {"dtype" if library is transformers else "torch_dtype": torch.float32}
    try:
        model, info = kind.from_pretrained(
            files.folder, local_files_only=True, use_safetensors=True, variant=files.variant, output_loading_info=True,
            **dtype,
        )  # fmt: skip
    except Exception as error:  # both libraries raise many kinds
        shape = re.search(r"(\S+) expected shape", str(error))
        if shape is not None:
            raise CheckpointError(
                f"{files.folder}: {shape[1]} has another shape than config.json says; config.json and weights belong to "
                "different models"
            ) from None
        raise CheckpointError(
            f"{files.folder} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from None
    missing = sorted(key for key in info["missing_keys"] if not key.endswith("position_ids"))
    wrong = sorted(str(item[0] if isinstance(item, tuple) else item) for item in info["mismatched_keys"])
    extra = sorted(key for key in info["unexpected_keys"] if not key.endswith("position_ids"))
    for keys, problem in (
        (missing, "lack"),
        (wrong, "have another shape of"),
        (extra, "have no place in the model for"),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise CheckpointError(
                f"{files.folder}: the weights {problem} {keys[0]}{more}; config.json and weights belong to different models"
            )
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{files.folder}: {key} holds NaN or infinity; the weights are damaged")
    return model


def _class_name(name: str, folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    if named is None or named == "CLIPModel":
        return PARTS[name][0]
    if named not in PARTS[name]:
        raise SpecError(f"{folder} holds a {named}; can be exported as {name}: {', '.join(PARTS[name])}")
    return str(named)


def _vae_files(folder: Path) -> WeightFiles:
    inner = folder / "vae"
    return weight_files(inner if inner.is_dir() and not (folder / "config.json").is_file() else folder)


def _scheduler(folder: Path, name: str | None) -> Any:
    import diffusers

    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    chosen = name or config.get("_class_name")
    kind = getattr(diffusers, str(chosen), None) if str(chosen).endswith("Scheduler") else None
    if kind is None:
        raise SpecError(
            f"scheduler {chosen!r} is not in diffusers {diffusers.__version__}; for example: DDIMScheduler, PNDMScheduler, "
            "EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, "
            "LCMScheduler"
        )
    return kind.from_config(config)


def _fold(pipeline: Any, lora: Lora) -> None:
    if not lora.file.is_file():
        raise CheckpointError(f"--lora {lora.file} does not exist")
    if lora.file.suffix != ".safetensors":
        raise CheckpointError(f"--lora {lora.file} is no safetensors file, the only format that is read")
    before = [value.clone() for value in pipeline.unet.parameters()]
    try:
        pipeline.load_lora_weights(lora.file.parent, weight_name=lora.file.name, local_files_only=True)
        pipeline.fuse_lora(lora_scale=lora.scale)
        pipeline.unload_lora_weights()
    except Exception as error:
        raise CheckpointError(
            f"--lora {lora.file} does not fit this model: {' '.join(str(error).split())[:200]}"
        ) from None
    same = all(torch.equal(a, b) for a, b in zip(before, pipeline.unet.parameters(), strict=True))
    if same and lora.scale != 0.0:
        raise CheckpointError(f"--lora {lora.file} changes no weight of this model; it is for another one")
