"""Checkpoint folders: ``config.json``, ``model.safetensors``, ``tokenizer.json``; never pickle.

The tensors are named ``vae.*``, ``backbone.*``, ``planner.*`` and ``text_encoder.*``. A run that has
only trained its VAE holds only ``vae.*``; ``stages`` in config.json says what was trained. ``base`` in
config.json names another checkpoint, by its path from this one, that holds the modules (and the tokenizer)
which this one leaves out: a student beside its teacher repeats nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from microforge.errors import CheckpointError, SpecError
from microforge.io.atomic import atomic_folder
from microforge.spec import TASKS, ModelSpec, from_dict, to_dict
from microforge.tokenizer import PromptTokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
FORMAT = 2
#: Part of a format-1 ``model`` -> its keys that have another name in format 2; such checkpoints are still read.
_FORMAT_1_KEYS: Mapping[str, Mapping[str, str]] = {
    "backbone": {"source_in_place": "aligned_source"},
    "sampler": {"guidance_folded": "guidance_distilled", "unchanged": "preserve_distances"},
}
#: What ships: the teacher, from which training goes on, and beside it the student, which draws.
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

    def module_tensors(self, module: str) -> dict[str, Tensor]:
        """Tensors of ``vae``, ``backbone``, ``planner``, ``text_encoder`` or a part of one, without the prefix."""
        prefix = module + "."
        return {
            name[len(prefix) :]: tensor for name, tensor in self.tensors.items() if name.startswith(prefix)
        }

    def load_into(self, name: str, module: nn.Module) -> None:
        """Fill ``module`` with this checkpoint's ``name`` weights.

        Raises:
            CheckpointError: when weights are missing, unexpected or of another shape.
        """
        tensors = self.module_tensors(name)
        if not tensors:
            stages = ", ".join(self.stages) or "nothing"
            raise CheckpointError(f"the checkpoint holds no {name} weights (trained so far: {stages})")
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:240]
            raise CheckpointError(f"the {name} weights do not fit the configuration: {reason}") from None


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and check a checkpoint folder, and its base where it has one.

    Raises:
        CheckpointError: for a missing folder or file, a bad config.json, or a truncated weight file.
    """
    found, base = _read_own(Path(folder))
    return found if base is None else _over(_read_base(Path(folder), base), found)


def _read_own(folder: Path) -> tuple[Checkpoint, object]:
    """What ``folder`` itself holds, and the ``base`` of its config.json as it stands there."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            what = "no such checkpoint folder" if not folder.is_dir() else f"the checkpoint has no {name}"
            raise CheckpointError(f"{folder}: {what}; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") not in (1, FORMAT):
        raise CheckpointError(f"{folder / CONFIG} is not a MicroForge checkpoint of format 1 or {FORMAT}")
    model = _upgraded(config.get("model")) if config["format"] == 1 else config.get("model")
    try:
        spec = from_dict(ModelSpec, model, "config.json model")
    except SpecError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    stages = config.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise CheckpointError(f"{folder / CONFIG}: stages must be a list of names")
    if "edit" in stages:  # the stage teaches all of them, and leaves the configuration as it was
        spec = replace(spec, tasks=TASKS)
    tokenizer = folder / TOKENIZER
    found = Checkpoint(
        spec=spec,
        tensors=_read_weights(folder / WEIGHTS),
        stages=tuple(stages),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )
    return found, config.get("base")


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
    """The checkpoint that ``folder`` leaves modules to, which must be whole in itself."""
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / CONFIG}: base must be the path of a checkpoint, from this one")
    place = Path(os.path.normpath(folder / base))  # not through ``folder``, which may not be there yet
    try:
        found, nested = _read_own(place)
    except CheckpointError as error:
        raise CheckpointError(f"{folder} needs its base: {error}") from None
    if nested is not None:
        raise CheckpointError(f"{folder}: its base {base} has a base of its own; name the whole one")
    return found


def _over(base: Checkpoint, own: Checkpoint) -> Checkpoint:
    """``own``, with the modules and the tokenizer that it leaves out from ``base``."""
    mine = {name.split(".")[0] for name in own.tensors}
    kept = {name: tensor for name, tensor in base.tensors.items() if name.split(".")[0] not in mine}
    digest = hashlib.sha256((base.sha256 + own.sha256).encode()).hexdigest()
    return replace(
        own, tensors={**kept, **own.tensors}, tokenizer=own.tokenizer or base.tokenizer, sha256=digest
    )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); copy or train it again") from None
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def write_checkpoint(
    folder: str | Path,
    spec: ModelSpec,
    modules: Mapping[str, nn.Module],
    tokenizer: PromptTokenizer | None,
    stages: tuple[str, ...],
    dtype: torch.dtype = torch.float32,
    base: str | None = None,
) -> None:
    """Write a checkpoint folder atomically; an older checkpoint at the same place is replaced, what else lies there stays.

    Args:
        base: path, from ``folder``, of a checkpoint; the modules and the tokenizer that are the same there are left out.

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
    shared: bytes | None = None  # the base's tokenizer
    if base is not None:
        config["base"] = base
        whole = _read_base(Path(folder), base)
        tensors = _unlike(tensors, whole.tensors)
        shared = whole.tokenizer.read_bytes() if whole.tokenizer else None
    with atomic_folder(folder, force=True, marker=CONFIG) as target:
        (target / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file(tensors, target / WEIGHTS)
        (target / WEIGHTS).chmod(0o644)  # safetensors makes it readable by its owner alone
        if tokenizer is not None:
            tokenizer.save(target / TOKENIZER)
            if (target / TOKENIZER).read_bytes() == shared:
                (target / TOKENIZER).unlink()
        _keep_others(Path(folder), target)


def copy_whole(folder: str | Path, target: str | Path) -> None:
    """Write the checkpoint ``folder`` to the new folder ``target`` as one that needs no base, in its stored dtypes.

    Raises:
        CheckpointError: as ``read_checkpoint``.
        OutputExistsError: when ``target`` exists.
    """
    folder, checkpoint = Path(folder), read_checkpoint(folder)
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    tensors = load_file(folder / WEIGHTS)
    if (base := config.pop("base", None)) is not None:
        modules = {name.split(".")[0] for name in tensors}
        inherited = load_file(folder / base / WEIGHTS)
        tensors |= {name: value for name, value in inherited.items() if name.split(".")[0] not in modules}
    with atomic_folder(target, marker=CONFIG) as out:
        (out / CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")
        save_file(tensors, out / WEIGHTS)
        (out / WEIGHTS).chmod(0o644)
        if checkpoint.tokenizer is not None:
            shutil.copyfile(checkpoint.tokenizer, out / TOKENIZER)


def _keep_others(folder: Path, target: Path) -> None:
    """Copy what is no checkpoint's own, a model card or a student's folder, from ``folder`` to what takes its place."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name in (CONFIG, WEIGHTS, TOKENIZER):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, target / entry.name, follow_symlinks=False)


def _unlike(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` of the modules that are not wholly the same in ``base``."""
    differs = {
        name.split(".")[0]
        for name, tensor in tensors.items()
        if name not in base or not torch.equal(base[name].to(tensor.dtype), tensor)
    }
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] in differs}
