"""Checkpoint folders: ``config.json``, ``model.safetensors``, ``tokenizer.json``; never pickle.

The tensors are named ``vae.*``, ``backbone.*``, ``planner.*`` and ``text_encoder.*``. A run that has
only trained its VAE writes only ``vae.*``; ``stages`` in config.json lists what was trained. ``base`` in
config.json is the relative path of another checkpoint, from which modules (and the tokenizer) are read that
this one lacks: a student stores only the modules in which it differs from its teacher.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from microforge.errors import CheckpointError, SpecError
from microforge.io import checkpoint_files
from microforge.io.atomic import atomic_folder
from microforge.io.checkpoint_files import check_folder, unreadable_weights
from microforge.io.user_file import UnusableFileError, read_user_text
from microforge.spec import TASKS, ModelSpec, from_dict, to_dict
from microforge.tokenizer import PromptTokenizer

CONFIG, WEIGHTS, TOKENIZER = checkpoint_files.CONFIG, checkpoint_files.WEIGHTS, checkpoint_files.TOKENIZER
FORMAT = 2
#: Part of a format-1 ``model`` -> its keys that have another name in format 2; such checkpoints are still read.
_FORMAT_1_KEYS: Mapping[str, Mapping[str, str]] = {
    "backbone": {"source_in_place": "aligned_source"},
    "sampler": {"guidance_folded": "guidance_distilled", "unchanged": "preserve_distances"},
}
#: The checkpoints of the package: the teacher, which further training starts from, and the 4-step student.
SHIPPED_TEACHER = Path(__file__).parent / "pretrained"
SHIPPED_STUDENT = SHIPPED_TEACHER / "student"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory; tensors are float32 whatever type the file holds."""

    spec: ModelSpec
    tensors: Mapping[str, Tensor]
    stages: tuple[str, ...]
    tokenizer: Path | None
    sha256: str

    @property
    def elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    def module_tensors(self, module: str) -> dict[str, Tensor]:
        """The tensors of ``vae``, ``backbone``, ``planner``, ``text_encoder`` or a part of one, without the prefix."""
        prefix = module + "."
        return {
            name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)
        }

    def load_into(self, name: str, module: nn.Module) -> None:
        """Load the weights called ``name`` into ``module``.

        Raises:
            CheckpointError: when weights are missing, unexpected, of another shape, or integers for floating point.
        """
        tensors = self.module_tensors(name)
        if not tensors:
            stages = ", ".join(self.stages) or "nothing"
            raise CheckpointError(f"the checkpoint holds no {name} weights (trained so far: {stages})")
        _check_dtypes(name, tensors, module)
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:240]
            raise CheckpointError(f"the {name} weights do not fit the configuration: {reason}") from None


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and check a checkpoint folder, together with its base if it has one.

    Raises:
        CheckpointError: for a missing folder or file, a bad config.json, a truncated weight file, or weights that are
            not finite; names the tensor.
    """
    checkpoint, base = _read_folder(Path(folder))
    return checkpoint if base is None else _with_base(checkpoint, _read_base(Path(folder), base))


def _read_folder(folder: Path) -> tuple[Checkpoint, object]:
    """The content of ``folder`` without its base, and the ``base`` of its config.json, unchecked."""
    spec, stages, base = _read_settings(folder)
    tokenizer = folder / TOKENIZER
    checkpoint = Checkpoint(
        spec=spec,
        tensors=_read_weights(folder / WEIGHTS),
        stages=tuple(stages),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )
    return checkpoint, base


def read_spec(folder: str | Path) -> ModelSpec:
    """The configuration of a checkpoint, without its weights.

    Raises:
        CheckpointError: for a missing folder, or a bad config.json.
    """
    return _read_settings(Path(folder))[0]


def _read_settings(folder: Path) -> tuple[ModelSpec, list[str], object]:
    """Configuration, stages and unchecked ``base`` of config.json."""
    check_folder(folder)
    config = _read_config(folder / CONFIG)
    stages = config.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise CheckpointError(f"{folder / CONFIG}: stages must be a list of names")
    return _spec(folder, config, stages), stages, config.get("base")


def _spec(folder: Path, config: Mapping[str, object], stages: list[str]) -> ModelSpec:
    model = _upgraded(config.get("model")) if config["format"] == 1 else config.get("model")
    try:
        spec = from_dict(ModelSpec, model, "config.json model")
    except SpecError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    # The edit stage teaches all tasks and does not change the configuration.
    return replace(spec, tasks=TASKS) if "edit" in stages else spec


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(read_user_text(path))
    except OSError as error:
        raise CheckpointError(f"{path} {_said(error)}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(config, dict) or config.get("format") not in (1, FORMAT):
        raise CheckpointError(f"{path} is not of a MicroForge checkpoint of format 1 or {FORMAT}")
    return config


def _said(error: OSError) -> str:
    return (
        str(error) if isinstance(error, UnusableFileError) else f"cannot be read: {error.strerror or error}"
    )


def _upgraded(model: object) -> object:
    """The ``model`` of a format-1 config.json with the keys of format 2."""
    if not isinstance(model, dict):
        return model
    parts = dict(model)
    for part, names in _FORMAT_1_KEYS.items():
        if isinstance(values := parts.get(part), dict):
            parts[part] = {names.get(key, key): value for key, value in values.items()}
    return parts


def _read_base(folder: Path, base: object) -> Checkpoint:
    """The base of the checkpoint ``folder``; a base may not have a base itself."""
    if not isinstance(base, str) or not base or os.path.isabs(base) or "\0" in base or len(base) > 1024:
        raise CheckpointError(f"{folder / CONFIG}: base must be the relative path of a checkpoint")
    path = Path(os.path.normpath(folder / base))  # by name, since ``folder`` may not exist yet
    try:
        checkpoint, nested = _read_folder(path)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} needs its base: {error}") from None
    if nested is not None:
        raise CheckpointError(f"{folder}: its base {base} has a base itself; name that one")
    return checkpoint


def _with_base(checkpoint: Checkpoint, base: Checkpoint) -> Checkpoint:
    """``checkpoint`` with the modules and the tokenizer that it lacks taken from ``base``."""
    digest = hashlib.sha256((base.sha256 + checkpoint.sha256).encode()).hexdigest()
    return replace(
        checkpoint,
        tensors={**_lacking(base.tensors, checkpoint.tensors), **checkpoint.tensors},
        tokenizer=checkpoint.tokenizer or base.tokenizer,
        sha256=digest,
    )


def _lacking(base: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of ``base`` whose modules ``tensors`` lacks."""
    modules = {name.split(".")[0] for name in tensors}
    return {name: tensor for name, tensor in base.items() if name.split(".")[0] not in modules}


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except Exception as error:  # the library's own, and whatever torch says to impossible shapes and types
        raise CheckpointError(f"{path} {unreadable_weights(path, error)}") from None
    converted = {}
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise CheckpointError(
                f"{path}: {name} is {_dtype(tensor)}; allowed: real numbers in floating point"
            )
        converted[name] = tensor.float() if tensor.is_floating_point() else tensor
        _check_finite(path, name, tensor, converted[name])
    return converted


def _check_finite(path: Path, name: str, stored: Tensor, values: Tensor) -> None:
    """Refuse NaN, infinities, and numbers that are infinite in float32 (``values``)."""
    if not values.is_floating_point() or values.isfinite().all():
        return
    count = int((~values.isfinite()).sum())
    beyond = " in float32" if stored.dtype == torch.float64 and stored.isfinite().all() else ""
    raise CheckpointError(
        f"{path}: {name} has {count} of {values.numel()} values that are not finite{beyond} (NaN or infinity); "
        "such weights generate black images: use an earlier checkpoint, or convert or train it again"
    )


def _check_dtypes(module_name: str, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse integers where ``module`` has floating point: ``load_state_dict`` would convert them without a word."""
    for key, parameter in module.state_dict().items():
        tensor = tensors.get(key)
        if tensor is not None and parameter.is_floating_point() and not tensor.is_floating_point():
            raise CheckpointError(
                f"{module_name}.{key} is {_dtype(tensor)}, the model needs floating point; allowed: float32, float16, "
                "bfloat16, float64 and float8 (quantize with mf-export build --precision int8, not in the checkpoint)"
            )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def write_checkpoint(
    folder: str | Path,
    spec: ModelSpec,
    modules: Mapping[str, nn.Module],
    tokenizer: PromptTokenizer | None,
    stages: tuple[str, ...],
    dtype: torch.dtype = torch.float32,
    base: str | None = None,
) -> None:
    """Write a checkpoint folder atomically; an older checkpoint there is replaced, other files stay.

    Args:
        folder: to write.
        spec: the configuration.
        modules: vae, backbone, planner and text_encoder, or some of them.
        tokenizer: of the text encoder; None for a checkpoint without one.
        stages: what was trained, oldest first.
        dtype: of the stored floating-point weights.
        base: path, from ``folder``, of a checkpoint; modules and a tokenizer that are equal there are left out.

    Raises:
        CheckpointError: when ``base`` is no checkpoint.
    """
    tensors = {
        f"{name}.{key}": value.detach()
        .to("cpu", dtype if value.is_floating_point() else value.dtype)
        .contiguous()
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }
    config = {"format": FORMAT, "stages": list(stages), "model": to_dict(spec)}
    base_tokenizer: bytes | None = None
    if base is not None:
        config["base"] = base
        base_checkpoint = _read_base(Path(folder), base)
        tensors = _differing(tensors, base_checkpoint.tensors)
        base_tokenizer = base_checkpoint.tokenizer.read_bytes() if base_checkpoint.tokenizer else None
    with atomic_folder(folder, force=True, marker=CONFIG) as target:
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file(tensors, target / WEIGHTS)
        (target / WEIGHTS).chmod(0o644)  # safetensors writes files that only their owner can read
        if tokenizer is not None:
            tokenizer.save(target / TOKENIZER)
            if (target / TOKENIZER).read_bytes() == base_tokenizer:
                (target / TOKENIZER).unlink()
        _copy_other_files(Path(folder), target)


def copy_whole(folder: str | Path, target: str | Path) -> None:
    """Write the checkpoint ``folder`` to the new folder ``target`` as one that needs no base, in its stored dtypes.

    Raises:
        CheckpointError: as ``read_checkpoint``.
        OutputExistsError: when ``target`` exists.
    """
    folder, checkpoint = Path(folder), read_checkpoint(folder)
    config = dict(_read_config(folder / CONFIG))
    tensors = load_file(folder / WEIGHTS)
    if (base := config.pop("base", None)) is not None:
        tensors |= _lacking(load_file(folder / str(base) / WEIGHTS), tensors)
    with atomic_folder(target, marker=CONFIG) as out:
        (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file(tensors, out / WEIGHTS)
        (out / WEIGHTS).chmod(0o644)
        if checkpoint.tokenizer is not None:
            shutil.copyfile(checkpoint.tokenizer, out / TOKENIZER)


def _copy_other_files(folder: Path, target: Path) -> None:
    """Copy files that do not belong to the checkpoint, such as a model card, from ``folder`` to its replacement."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name in (CONFIG, WEIGHTS, TOKENIZER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _differing(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all modules that have at least one tensor that is not equal in ``base``."""
    modules = {
        name.split(".")[0]
        for name, tensor in tensors.items()
        if name not in base or not torch.equal(base[name].to(tensor.dtype), tensor)
    }
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in modules}
