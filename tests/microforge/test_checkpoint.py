"""A student beside its teacher leaves out what both have, and reads as a whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from microforge.checkpoint import CONFIG, WEIGHTS, read_checkpoint
from microforge.errors import CheckpointError, SpecError
from microforge.pipeline import MicroForgePipeline


@pytest.fixture
def teacher(pipeline: MicroForgePipeline, tmp_path: Path) -> Path:
    """A teacher, and in its folder ``student`` another backbone over it."""
    folder = tmp_path / "teacher"
    pipeline.save_pretrained(folder, torch.float16)
    student = MicroForgePipeline.from_pretrained(folder)
    with torch.no_grad():
        student.backbone.head.bias.add_(1.0)
    student.save_pretrained(folder / "student", torch.float16, base="..")
    return folder


def test_a_student_over_a_base_holds_only_what_differs_and_reads_whole(teacher: Path) -> None:
    assert sorted(path.name for path in (teacher / "student").iterdir()) == [CONFIG, WEIGHTS]
    own, base = read_checkpoint(teacher / "student"), read_checkpoint(teacher)
    assert own.tokenizer is not None and own.tensors.keys() == base.tensors.keys()
    differs = {name for name in own.tensors if not torch.equal(own.tensors[name], base.tensors[name])}
    assert differs == {"backbone.head.bias"} and own.sha256 != base.sha256
    size = (teacher / "student" / WEIGHTS).stat().st_size
    assert size < 0.6 * (teacher / WEIGHTS).stat().st_size


def test_a_copy_that_moved_away_from_its_base_says_what_it_needs(teacher: Path, tmp_path: Path) -> None:
    (teacher / "student").rename(tmp_path / "alone")
    with pytest.raises(CheckpointError, match=r"needs its base: .*the checkpoint has no config\.json"):
        read_checkpoint(tmp_path / "alone")


@pytest.mark.parametrize(("base", "message"), [(3, "must be the relative path"), (".", "has a base itself")])
def test_a_base_that_cannot_be_one_is_refused(teacher: Path, base: object, message: str) -> None:
    path = teacher / "student" / CONFIG
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "base": base}), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(teacher / "student")


def test_a_changed_base_changes_what_the_student_is(teacher: Path) -> None:
    before = read_checkpoint(teacher / "student").sha256
    other = MicroForgePipeline.from_pretrained(teacher)
    with torch.no_grad():
        next(other.vae.parameters()).add_(1.0)
    student = teacher / "student"
    student.rename(teacher.parent / "kept")
    other.save_pretrained(teacher, torch.float16)
    (teacher.parent / "kept").rename(student)
    assert read_checkpoint(student).sha256 != before


def test_writing_over_a_checkpoint_keeps_what_is_not_its_own(teacher: Path) -> None:
    (teacher / "README.md").write_text("mine", "utf-8")
    own = (teacher / "student" / WEIGHTS).read_bytes()
    again = MicroForgePipeline.from_pretrained(teacher)
    again.stages = ("vae",)
    again.save_pretrained(teacher, torch.float16)
    assert (teacher / "README.md").read_text("utf-8") == "mine"
    assert (teacher / "student" / WEIGHTS).read_bytes() == own
    assert read_checkpoint(teacher).stages == ("vae",)


@pytest.fixture
def whole(pipeline: MicroForgePipeline, tmp_path: Path) -> Path:
    folder = tmp_path / "whole"
    pipeline.save_pretrained(folder)
    return folder


def _change(folder: Path, name: str, tensor: Tensor) -> None:
    tensors = load_file(folder / WEIGHTS)
    assert name in tensors
    save_file({**tensors, name: tensor}, folder / WEIGHTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_not_finite_are_refused_by_tensor_name(
    whole: Path, value: float, dtype: torch.dtype
) -> None:
    tensor = load_file(whole / WEIGHTS)["backbone.head.bias"].to(dtype)
    tensor.view(-1)[-1] = value
    _change(whole, "backbone.head.bias", tensor)
    with pytest.raises(
        CheckpointError, match=r"backbone\.head\.bias has 1 of \d+ values that are not finite"
    ):
        read_checkpoint(whole)


def test_weights_beyond_float32_are_refused(whole: Path) -> None:
    tensor = load_file(whole / WEIGHTS)["backbone.head.bias"].double()
    _change(whole, "backbone.head.bias", torch.full_like(tensor, 1e200))
    with pytest.raises(CheckpointError, match="not finite in float32"):
        read_checkpoint(whole)


def test_weights_of_a_base_that_are_not_finite_are_refused(teacher: Path) -> None:
    name = next(name for name in load_file(teacher / WEIGHTS) if name.startswith("vae."))
    _change(teacher, name, torch.full_like(load_file(teacher / WEIGHTS)[name], float("nan")))
    with pytest.raises(CheckpointError, match=r"needs its base: .*not finite"):
        read_checkpoint(teacher / "student")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_integers_in_place_of_floating_point_are_refused_by_tensor_name(
    whole: Path, dtype: torch.dtype
) -> None:
    _change(whole, "backbone.head.bias", load_file(whole / WEIGHTS)["backbone.head.bias"].to(dtype))
    with pytest.raises(CheckpointError, match=r"backbone\.head\.bias is (u?int|bool)\d*, the model needs"):
        MicroForgePipeline.from_pretrained(whole)


def test_integer_buffers_stay_allowed_where_the_module_has_them(whole: Path) -> None:
    tensors = load_file(whole / WEIGHTS)
    save_file({**tensors, "counter.num_batches_tracked": torch.tensor(7)}, whole / WEIGHTS)
    module = nn.Module()
    module.register_buffer("num_batches_tracked", torch.tensor(0))
    read_checkpoint(whole).load_into("counter", module)
    assert module.num_batches_tracked == 7


def test_complex_weights_are_refused(whole: Path) -> None:
    tensor = load_file(whole / WEIGHTS)["backbone.head.bias"].to(torch.complex64)
    _change(whole, "backbone.head.bias", tensor)
    with pytest.raises(CheckpointError, match=r"backbone\.head\.bias is complex64"):
        read_checkpoint(whole)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer .* not a safetensors"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"", "is an empty file, not a safetensors file"),
        (b"PK\x03\x04" + bytes(60), "zip archive .*pickle"),
        (b"\x80\x02}q\x00." + bytes(60), "Python pickle"),
        (bytes(1000), "file of zeros"),
    ],
)  # fmt: skip
def test_weights_of_another_kind_are_called_what_they_are(whole: Path, data: bytes, message: str) -> None:
    (whole / WEIGHTS).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(whole)


def test_truncated_weights_are_called_damaged(whole: Path) -> None:
    data = (whole / WEIGHTS).read_bytes()
    (whole / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=f"damaged or truncated at {len(data) // 2} bytes"):
        read_checkpoint(whole)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.safetensors.index.json", "model-00001-of-00002.safetensors"], "model.safetensors.index.json is the index"),
        (["model-00001-of-00002.safetensors"], "is one part of several"),
        (["diffusion_pytorch_model.safetensors"], "diffusion_pytorch_model.safetensors is a model of diffusers"),
        (["diffusion_pytorch_model.fp16.bin"], "is a model of diffusers"),
        (["pytorch_model.bin"], "pytorch_model.bin is a Python pickle"),
        (["last.ckpt"], "last.ckpt is a Python pickle"),
        (["unet.safetensors"], "unet.safetensors is not called model.safetensors"),
        (["flow/model.safetensors"], "flow/model.safetensors lies in a folder below"),
        ([], "has no model.safetensors; a checkpoint is"),
    ],
)  # fmt: skip
def test_missing_weights_name_what_lies_there_instead(whole: Path, files: list[str], message: str) -> None:
    (whole / WEIGHTS).unlink()
    for name in files:
        (whole / name).parent.mkdir(exist_ok=True)
        (whole / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(whole)


def test_config_with_a_byte_order_mark_is_read(whole: Path) -> None:
    path = whole / CONFIG
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read_checkpoint(whole)


@pytest.mark.parametrize(
    ("key", "value"), [("latent_mean", float("nan")), ("latent_std", float("inf")), ("latent_std", 0.0)]
)
def test_latent_statistics_that_cannot_be_right_are_refused(whole: Path, key: str, value: float) -> None:
    config = json.loads((whole / CONFIG).read_text("utf-8"))
    channels = config["model"]["vae"]["latent_channels"]
    config["model"]["vae"][key] = [1.0] * (channels - 1) + [value]
    (whole / CONFIG).write_text(json.dumps(config), "utf-8")
    with pytest.raises(CheckpointError, match=key):
        read_checkpoint(whole)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_named_pipe_in_a_checkpoint_is_refused_and_not_waited_for(whole: Path, name: str) -> None:
    (whole / name).unlink()
    os.mkfifo(whole / name)
    with pytest.raises(CheckpointError, match="is a named pipe"):
        read_checkpoint(whole)


def test_a_checkpoint_of_links_is_read(whole: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in whole.iterdir():
        (linked / path.name).symlink_to(path)
    assert read_checkpoint(linked).sha256 == read_checkpoint(whole).sha256


@pytest.mark.parametrize("base", ["/etc", "a\0b", "x" * 5000, ""])
def test_a_base_outside_relative_paths_is_refused(teacher: Path, base: str) -> None:
    path = teacher / "student" / CONFIG
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "base": base}), "utf-8")
    with pytest.raises(CheckpointError, match="must be the relative path"):
        read_checkpoint(teacher / "student")


def test_a_header_with_a_shape_beyond_torch_is_refused(whole: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]}}'
    (whole / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="damaged or truncated") as caught:
        read_checkpoint(whole)
    assert "\n" not in str(caught.value)


def test_a_configuration_beyond_its_weights_takes_no_memory(whole: Path) -> None:
    config = json.loads((whole / CONFIG).read_text("utf-8"))
    config["model"]["backbone"]["dim"] = config["model"]["planner"]["dim"] = 65_536
    (whole / CONFIG).write_text(json.dumps(config), "utf-8")
    with pytest.raises(SpecError, match="needs at least"):
        MicroForgePipeline.from_pretrained(whole)
