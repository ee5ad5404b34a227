"""Opens a checkpoint or a bundle as a model under test."""

from __future__ import annotations

from pathlib import Path

from microforge.bundle.files import is_bundle
from microforge.errors import SpecError
from microforge.evaluation.oracle.detector import MIN_SIDE
from microforge_benchmarks.evaluate.model_under_test import ModelUnderTest, SamplingOptions


def open_model_under_test(path: Path, options: SamplingOptions) -> ModelUnderTest:
    """Open a bundle (a folder with manifest.json, or an archive of it) or else a checkpoint folder.

    Raises:
        CheckpointError: when the checkpoint cannot be read.
        BundleError: when the bundle cannot be read, or lacks the target or size.
        SpecError: when it cannot be sampled with ``options``, or its images are too small for the detector.
    """
    model = _open(path, options)
    if min(model.size) < MIN_SIDE:
        raise SpecError(
            f"size {model.height}x{model.width} is too small: the detector needs at least {MIN_SIDE} px"
        )
    return model


def _open(path: Path, options: SamplingOptions) -> ModelUnderTest:
    if is_bundle(path):
        from microforge_benchmarks.evaluate.bundle_model import open_bundle

        return open_bundle(path, options)
    from microforge_benchmarks.evaluate.checkpoint_model import open_checkpoint

    return open_checkpoint(path, options)
