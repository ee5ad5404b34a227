"""Folders that cannot be exported are refused with one line that names the fault and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from microforge.errors import MicroForgeError
from microforge_export.providers.diffusers.folder import read_folder
from microforge_export.providers.source_folder import SourceOptions, read_source

Folder = Callable[[str], Path]
WEIGHTS = "diffusion_pytorch_model.safetensors"


def _index(folder: Path, **entries: object) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def _no_unet(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def _other_keys(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "layers_per_block": 2}))


def _other_shapes(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))


def _pickle(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def _pointer(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3438\n"
    (folder / "vae" / WEIGHTS).write_text(text)


def _truncated(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])


def _shard_missing(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    file.rename(folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors")
    shards = {
        "a": "diffusion_pytorch_model-00001-of-00002.safetensors",
        "b": "diffusion_pytorch_model-00002-of-00002.safetensors",
    }
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": shards}))


def _other_pipeline(folder: Path) -> None:
    _index(folder, _class_name="FluxPipeline")


def _other_part(folder: Path) -> None:
    _index(folder, unet=["diffusers", "UNet3DConditionModel"])


def _own_code(folder: Path) -> None:
    _index(folder, unet=["my_unet", "MyUNet"])


def _no_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def _no_scheduler(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()


def _no_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def _bad_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def _clipping(folder: Path) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(
        json.dumps(
            {
                **config,
                "_class_name": "DPMSolverMultistepScheduler",
                "thresholding": True,
                "timestep_spacing": "leading",
            }
        )
    )


BROKEN = {
    "no unet": (_no_unet, "has no folder unet; download the whole model"),
    "other keys": (_other_keys, "config.json and weights belong to different models"),
    "other shapes": (_other_shapes, "has another shape than config.json says"),
    "pickle only": (_pickle, "a pickle file, which can run code .* safe_serialization=True"),
    "pointer of git-lfs": (_pointer, "is a pointer of git-lfs, not the weights; run git lfs pull"),
    "truncated": (_truncated, "is damaged or incomplete .* download it again"),
    "shard missing": (_shard_missing, "lacks diffusion_pytorch_model-00002-of-00002.safetensors, one of 2 files"),
    "unknown pipeline": (_other_pipeline, "holds a FluxPipeline; pipelines that can be exported: StableDiffusionPipeline"),
    "unknown part": (_other_part, "unet of class UNet3DConditionModel; can be exported: UNet2DConditionModel"),
    "own code": (_own_code, "needs code of its own .*, which is never run"),
    "no tokenizer": (_no_tokenizer, "has no tokenizer.json and no vocab.json"),
    "no scheduler": (_no_scheduler, "has no scheduler/scheduler_config.json"),
    "no index": (_no_index, "has no model_index.json; download the whole model"),
    "index is no JSON": (_bad_index, "model_index.json is not a JSON file"),
    "clipping sampler": (_clipping, "DPMSolverMultistepScheduler: thresholding=True makes the sampler non-linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder_is_refused_in_one_line(name: str, model_folder: Folder, tmp_path: Path) -> None:
    damage, message = BROKEN[name]
    folder = tmp_path / "model"
    shutil.copytree(model_folder("sd-turbo"), folder)
    damage(folder)
    with pytest.raises(MicroForgeError, match=message) as caught:
        read_source(folder)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_a_single_file_is_refused_with_the_way_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match="from_single_file"):
        read_source(tmp_path / "model.safetensors")


def test_a_safety_checker_is_left_out_and_said(model_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folder("sd-turbo"), folder)
    _index(folder, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert read_folder(folder).ignored == ("safety_checker",)
    assert any("left out: safety_checker" in line for line in read_source(folder).remarks)


def test_options_of_diffusers_folders_are_refused_elsewhere(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="--steps is for a folder in diffusers' format"):
        read_source(checkpoint, SourceOptions(steps="4"))


@pytest.mark.parametrize("steps", ["", "0", "4,", "four", "1001", "-4"])
def test_bad_step_counts_are_refused(steps: str, model_folder: Folder) -> None:
    with pytest.raises(ValueError, match=r"--steps is .* allowed: numbers from 1 to 1000"):
        read_source(model_folder("sd-turbo"), SourceOptions(steps=steps))
