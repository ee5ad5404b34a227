"""``mf-export verify``: a damaged bundle is found out, by hash and, when the hash was mended, by parity."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from microforge.bundle.files import load_bundle
from microforge.io.console import exit_code
from microforge_export.checks.verify import file_bytes, verify
from microforge_export.cli import app

WEIGHTS, PROGRAM = "onnx/weights.bin", "executorch/vae_decoder.pte"


@dataclass(frozen=True)
class Damaged:
    """A copy of the bundle with one wrong weight in the decoder of one target, in its file ``path``."""

    folder: Path
    target: str
    path: str


@pytest.fixture(params=["onnx", "executorch"])
def damaged(bundle: Path, checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Damaged:
    copy = tmp_path / "damaged.mfb"
    shutil.copytree(bundle, copy)
    if request.param == "onnx":
        _damage_onnx(copy)
        return Damaged(copy, "onnx", WEIGHTS)
    _damage_executorch(copy, checkpoint)
    return Damaged(copy, "executorch", PROGRAM)


def _damage_onnx(copy: Path) -> None:
    model = onnx.load(str(copy / "onnx" / "vae_decoder.onnx"), load_external_data=False)
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("head.weight"))
    offset = int(next(item.value for item in kernel.external_data if item.key == "offset"))
    with (copy / WEIGHTS).open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.float32(3.0).tobytes())


def _damage_executorch(copy: Path, checkpoint: Path) -> None:
    """A bias lies in a program as it lies in the checkpoint; kernels are turned."""
    biases = load_file(checkpoint / "model.safetensors")
    bias = next(value for name, value in biases.items() if name.endswith("decoder.head.bias"))
    data = (copy / PROGRAM).read_bytes()
    offset = data.index(bias.astype(np.float32).tobytes())
    (copy / PROGRAM).write_bytes(data[:offset] + np.float32(3.0).tobytes() + data[offset + 4 :])


def mend(folder: Path, *paths: str) -> None:
    """Write the hashes that ``paths`` now have into the manifest, as a forger would."""
    text = (folder / "manifest.json").read_text()
    for entry in load_bundle(folder).files():
        if entry.path in paths:
            data = (folder / entry.path).read_bytes()
            text = text.replace(entry.sha256, hashlib.sha256(data).hexdigest())
            text = re.sub(rf'"bytes": {entry.bytes}\b', f'"bytes": {len(data)}', text)
    write_totals(folder, json.loads(text))


def write_totals(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest with the totals of bytes that its files have."""
    words = file_bytes(values["tokenizers"])
    values["bytes"] = sum(file_bytes(values).values())
    for target in values["targets"].values():
        target["bytes"] = sum({**words, **file_bytes(target)}.values())
    (folder / "manifest.json").write_text(json.dumps(values))


def test_an_untouched_bundle_passes(two_sizes: Path) -> None:
    result = verify(load_bundle(two_sizes))
    assert result.problems == ()
    assert len(result.parity["onnx"]) == 7 and len(result.images["onnx"]) == 2
    assert result.parity["onnx"] == load_bundle(two_sizes).manifest.targets["onnx"].parity, (
        "the same numbers as the build"
    )


def test_every_target_is_checked(bundle: Path) -> None:
    result, targets = verify(load_bundle(bundle)), load_bundle(bundle).manifest.targets
    assert result.problems == () and list(result.parity) == ["onnx", "executorch"]
    for name, parity in result.parity.items():
        assert set(parity) == set(targets[name].files) and len(result.images[name]) == 1


def test_a_wrong_weight_is_found_by_hash_and_its_component_named(damaged: Damaged) -> None:
    problems = verify(load_bundle(damaged.folder)).problems
    assert f"{damaged.path} has SHA-256" in problems[0] and problems[0].startswith(damaged.target)
    assert any(problem.startswith(f"{damaged.target} vae_decoder has ") for problem in problems)
    images = (
        f"{damaged.target} image of ",
        f"{damaged.target} vae_decoder",
        f"{damaged.target} weights of vae_decoder:",
    )
    assert all(problem.startswith(images) for problem in problems), "nothing else is accused"


def test_one_changed_bit_of_shared_weights_names_the_components_that_read_it(
    two_sizes: Path, tmp_path: Path
) -> None:
    """Too little for parity to see: the hashes alone find it, and know that no other network is hurt."""
    copy = tmp_path / "bit.mfb"
    shutil.copytree(two_sizes, copy)
    model = onnx.load(str(copy / "onnx" / "denoiser_64x64.onnx"), load_external_data=False)
    kernel = next(
        tensor for tensor in model.graph.initializer if "merged" in tensor.name and tensor.external_data
    )
    offset = int(next(item.value for item in kernel.external_data if item.key == "offset"))
    with (copy / WEIGHTS).open("r+b") as stream:
        stream.seek(offset)
        low = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([low ^ 1]))
    (problem,) = verify(load_bundle(copy)).problems
    assert problem.startswith("onnx weights of denoiser_64x64, denoiser_64x96: ")


def test_a_mended_hash_does_not_hide_a_wrong_weight(damaged: Damaged) -> None:
    mend(damaged.folder, damaged.path)
    problems = verify(load_bundle(damaged.folder)).problems
    assert not any("SHA-256" in problem for problem in problems)
    assert problems[0].startswith(f"{damaged.target} vae_decoder has ")


def test_the_command_exits_with_1_and_names_the_component(
    damaged: Damaged, capsys: pytest.CaptureFixture[str]
) -> None:
    mend(damaged.folder, damaged.path)
    assert exit_code(app, ["verify", str(damaged.folder), "--json"]) == 1
    captured = capsys.readouterr()
    assert f"error: {damaged.target} vae_decoder has " in captured.err
    assert json.loads(captured.out.splitlines()[-1])["ok"] is False


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("onnx/denoiser.onnx", "denoiser cannot be run"),
        ("golden/denoiser.safetensors", "denoiser cannot be run"),
        ("golden/trajectory_generate_64x64.safetensors", "cannot be made"),
        ("tokenizer.json", "tokenizer"),
        (WEIGHTS, "denoiser cannot be run"),
        (PROGRAM, "executorch vae_decoder cannot be run"),
    ],
)  # fmt: skip
def test_a_truncated_file_is_named_even_under_its_own_hash(
    bundle: Path, tmp_path: Path, path: str, named: str
) -> None:
    copy = tmp_path / "short.mfb"
    shutil.copytree(bundle, copy)
    data = (copy / path).read_bytes()
    (copy / path).write_bytes(data[: len(data) // 3])
    mend(copy, path)
    assert any(named in problem for problem in verify(load_bundle(copy)).problems)


def test_a_bundle_without_golden_files_does_not_pass(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bare.mfb"
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["golden"] = {"components": {}, "trajectories": []}
    write_totals(copy, manifest)
    assert len(verify(load_bundle(copy)).problems) == 2 * 4 + 1


def test_verify_and_inspect_of_onnx_need_no_torch(two_sizes: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom microforge_export.cli import app\n"
        "from microforge.io.console import exit_code\n"
        f"sys.exit(exit_code(app, ['verify', {str(two_sizes)!r}]) or exit_code(app, ['inspect', {str(two_sizes)!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
