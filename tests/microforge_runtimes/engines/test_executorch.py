"""The ExecuTorch session: the same contract as every engine's, and torch only when it is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn

from microforge.bundle.manifest import Component, Size, TensorSpec
from microforge.errors import BundleError, MissingExtraError
from microforge_runtimes.engines import executorch
from microforge_runtimes.engines.executorch import ExecutorchSession

DECODER = Component(
    role="vae_decoder",
    size=Size(height=2, width=4),
    inputs=(TensorSpec(name="latent", shape=(1, 2, 1, 2), dtype="float32"),),
    outputs=(TensorSpec(name="image", shape=(1, 3, 2, 4), dtype="float32"),),
)


class Decoder(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return torch.cat([latent, latent[:, :1]], 1).repeat_interleave(2, 2).repeat_interleave(2, 3) + 1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with the method ``decoder`` of ``DECODER``."""
    traced = torch.export.export(Decoder(), (torch.ones(1, 2, 1, 2),))
    lowered = to_edge_transform_and_lower({"decoder": traced}, partitioner=[XnnpackPartitioner()])
    path = tmp_path_factory.mktemp("program") / "decoder.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    return path


def latent() -> np.ndarray:
    return np.arange(4, dtype=np.float32).reshape(1, 2, 1, 2)


def test_a_session_computes_and_closes(program: Path) -> None:
    session = ExecutorchSession(program, "decoder", DECODER)
    image = session.run({"latent": latent()})["image"]
    assert image.dtype == np.float32 and np.array_equal(image[0, :2, 0, ::2], latent()[0, :, 0] + 1)
    again = session.run({"latent": latent() + 5})["image"]
    assert np.array_equal(again, image + 5), "results are copies: the next run leaves them alone"
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run({"latent": latent()})


def test_arrays_that_are_read_only_or_not_contiguous_are_taken(program: Path) -> None:
    session = ExecutorchSession(program, "decoder", DECODER)
    expected = session.run({"latent": latent()})["image"]
    view = np.broadcast_to(latent(), (1, 2, 1, 2))
    turned = np.asfortranarray(latent())
    for given in (view, turned, np.ascontiguousarray(latent()[:, :, :, ::-1])[:, :, :, ::-1]):
        assert np.array_equal(session.run({"latent": given})["image"], expected)


def test_other_inputs_are_refused_by_name(program: Path) -> None:
    session = ExecutorchSession(program, "decoder", DECODER)
    with pytest.raises(ValueError, match=r"latent is float64\[1, 2, 1, 2\], needed: float32"):
        session.run({"latent": latent().astype(np.float64)})
    with pytest.raises(ValueError, match="takes latent; got z"):
        session.run({"z": latent()})


@pytest.mark.parametrize("keep", [0, 6, 200, -50])
def test_a_truncated_program_is_a_bundle_error(program: Path, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short.pte"
    path.write_bytes(program.read_bytes()[:keep])
    with pytest.raises(BundleError, match=r"short\.pte"):
        ExecutorchSession(path, "decoder", DECODER)


def test_a_file_of_another_kind_is_a_bundle_error(tmp_path: Path) -> None:
    path = tmp_path / "noise.pte"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(BundleError, match="not an ExecuTorch program"):
        ExecutorchSession(path, "decoder", DECODER)


def test_a_method_that_is_not_there_is_a_bundle_error(program: Path) -> None:
    with pytest.raises(BundleError, match="cannot load method encoder"):
        ExecutorchSession(program, "encoder", DECODER)


def test_tensors_unlike_the_manifests_are_a_bundle_error(program: Path) -> None:
    wide = DECODER.model_copy(update={"outputs": (TensorSpec(name="image", shape=(1, 3, 2, 8), dtype="float32"),)})  # fmt: skip
    with pytest.raises(BundleError, match=r"'image' is float32\[1, 3, 2, 4\], the manifest says .*8\]"):
        ExecutorchSession(program, "decoder", wide)
    with pytest.raises(BundleError, match="1 tensors where the manifest lists 2"):
        ExecutorchSession(program, "decoder", DECODER.model_copy(update={"inputs": DECODER.inputs * 2}))


def test_threads_are_those_of_the_session_opened_last(program: Path) -> None:
    from executorch.extension.pybindings import portable_lib

    for threads in (1, 2):
        ExecutorchSession(program, "decoder", DECODER, threads)
        assert portable_lib._threadpool_get_thread_count() == threads


def test_opening_a_session_leaves_stderr_to_others(program: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ExecutorchSession(program, "decoder", DECODER, threads=1).run({"latent": latent()})
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_missing_engine_names_its_extra(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings.portable_lib", None)
    executorch.engine.cache_clear()
    with pytest.raises(MissingExtraError, match=r"microforge\[executorch\]"):
        ExecutorchSession(program, "decoder", DECODER)
    executorch.engine.cache_clear()


def test_the_module_alone_loads_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys, microforge_runtimes.engines.executorch\n"
        "sys.exit(any(name.split('.')[0] in ('torch', 'executorch') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
