"""The Python runtime's own report: golden trajectories of bundles, generated again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microforge.bundle.files import Bundle, load_bundle
from microforge.bundle.manifest import Trajectory
from microforge.errors import BundleError, missing_extra
from microforge_benchmarks.conformance.results import ReplayedTrajectory, RuntimeReport
from microforge_runtimes.generator import Generator, Request

Tensors = Mapping[str, NDArray[Any]]
_TARGET = "onnx"


def python_report(bundles: Sequence[Path]) -> RuntimeReport:
    """Replay every trajectory of ``bundles`` with ONNX Runtime.

    Raises:
        BundleError: when a bundle cannot be opened, or has no trajectory.
        MissingExtraError: without ONNX Runtime or safetensors.
    """
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "bench") from None
    replayed = [
        replay(bundle, trajectory)
        for bundle in map(load_bundle, bundles)
        for trajectory in _trajectories(bundle)
    ]
    return RuntimeReport(
        runtime="python", engine=f"ONNX Runtime {onnxruntime.__version__}", trajectories=tuple(replayed)
    )


def replay(bundle: Bundle, trajectory: Trajectory) -> ReplayedTrajectory:
    """Generate one trajectory again and compare its image with the stored one."""
    tensors = _tensors(bundle, trajectory)
    request = Request(
        trajectory.prompt or None, trajectory.task, tensors.get("source"), tensors.get("mask"), trajectory.seed,
        strength=trajectory.strength,
    )  # fmt: skip
    with Generator(bundle, _TARGET, (trajectory.size.height, trajectory.size.width), threads=1) as generator:
        checked = generator.check(request)
        tokens = checked.tokens[checked.branches[0].prompt]
        equal = np.array_equal(generator.noise(trajectory.seed), tensors["noise"]) and all(
            np.array_equal(ids.ids, tensors[f"tokens.{name}.ids"].reshape(-1))
            for name, ids in tokens.items()
            if f"tokens.{name}.ids" in tensors
        )
        image = generator.run(request).float_image
    difference = image.astype(np.float64) - tensors["image"]
    error = math.sqrt(float(np.mean(np.square(difference))))
    psnr = None if error == 0.0 else -20.0 * math.log10(error)
    worst = float(np.abs(difference).max()) * 255.0
    limit, within = _limit(bundle, trajectory, worst, psnr)
    return ReplayedTrajectory(
        bundle=bundle.id, model=bundle.manifest.model.name, precision=bundle.target(_TARGET).precision, task=trajectory.task,
        size=str(trajectory.size), worst_pixel=worst, psnr_db=psnr, limit=limit, passed=equal and within,
    )  # fmt: skip


def _limit(bundle: Bundle, trajectory: Trajectory, worst: float, psnr: float | None) -> tuple[str, bool]:
    """What the manifest demands of an image, in words, and whether it is met."""
    target = bundle.target(_TARGET)
    quality = target.quality.get(str(trajectory.size))
    if quality is not None:
        least = quality.limits.psnr_worst_db
        return f"PSNR {least:g} dB", psnr is None or psnr >= least
    if target.image is None:
        raise BundleError(
            f"{bundle.path}: target {_TARGET} has no limit for whole images; build the bundle again"
        )
    return f"pixel {target.image.threshold:g}", worst <= target.image.threshold


def _trajectories(bundle: Bundle) -> Sequence[Trajectory]:
    trajectories = bundle.manifest.golden.trajectories
    if not trajectories:
        raise BundleError(f"{bundle.path} holds no golden trajectories; build the bundle again")
    return trajectories


def _tensors(bundle: Bundle, trajectory: Trajectory) -> Tensors:
    """The tensors of a trajectory by their standard names."""
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise missing_extra("safetensors", "train") from None
    stored = load_file(bundle.checked(trajectory.file))
    renamed = {name: stored[own] for name, own in trajectory.renamed.items() if own in stored}
    others = {name: value for name, value in stored.items() if name not in trajectory.renamed.values()}
    return {**others, **renamed}
