"""Measures and golden files: what the numbers mean, and that they survive the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from microforge.bundle.targets import ImageParity, Parity
from microforge.errors import BundleError, ParityError
from microforge_export.checks import golden, parity
from microforge_export.checks.golden import Case


def test_psnr_is_over_the_references_range() -> None:
    reference = np.array([0.0, -8.0, 4.0], np.float32)
    assert parity.psnr_db(reference, reference + np.float32(0.008)) == pytest.approx(60, abs=0.01)
    assert parity.psnr_db(reference, reference) == parity.LIMIT_DB
    assert parity.psnr_db(reference, -reference) < 10


def test_nan_and_wrong_shapes_are_the_worst() -> None:
    reference = np.ones(3, np.float32)
    for result in (
        np.full(3, np.nan, np.float32),
        np.array([1, 1, np.inf], np.float32),
        np.ones(2, np.float32),
    ):
        assert parity.psnr_db(reference, result) == -parity.LIMIT_DB
        assert parity.max_abs(reference, result) > 1e38


def test_a_shortfall_names_every_component_and_image() -> None:
    bad = Parity(psnr_db=31.25, max_abs=1.0, threshold_db=60.0)
    image = ImageParity(max_abs_255=3.0, threshold=2.0)
    with pytest.raises(
        ParityError, match=r"^onnx denoiser has 31\.2 dB, .*; onnx image of 'x' differs by 3\.00/255"
    ):
        parity.require(
            "onnx", {"denoiser": bad, "fine": bad.model_copy(update={"psnr_db": 60.0})}, {"'x'": image}
        )


def test_cases_survive_the_disk_in_any_memory_layout(tmp_path: Path) -> None:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    cases = [Case({"a": grid.T, "n": np.array([i])}, {"b.c": grid[:, ::2]}) for i in range(11)]
    golden.write_cases(tmp_path / "x.safetensors", cases)
    for before, after in zip(cases, golden.read_cases(tmp_path / "x.safetensors"), strict=True):
        for name, value in {**before.inputs, **before.outputs}.items():
            assert np.array_equal({**after.inputs, **after.outputs}[name], value)


def test_other_tensors_are_no_cases(tmp_path: Path) -> None:
    golden.write_tensors(tmp_path / "x.safetensors", {"z": np.zeros(2)})
    with pytest.raises(BundleError, match=r"case0\.input\.NAME"):
        golden.read_cases(tmp_path / "x.safetensors")
