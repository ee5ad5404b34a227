"""Scores of an evaluation as typed values; ``dataclasses.asdict`` gives their JSON form. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from microforge.evaluation.oracle.verdict import wilson_interval


@dataclass(frozen=True)
class Accuracy:
    """Number and share of correct results with Wilson's 95 % interval; the share is None when ``total`` is 0."""

    correct: int
    total: int
    accuracy: float | None
    low: float
    high: float


def accuracy_of(results: Sequence[bool]) -> Accuracy:
    """Accuracy of ``results``, rounded to four decimals."""
    low, high = wilson_interval(sum(results), len(results))
    share = round(sum(results) / len(results), 4) if results else None
    return Accuracy(sum(results), len(results), share, round(low, 4), round(high, 4))


@dataclass(frozen=True)
class CategoryScores:
    """Accuracy over a set of prompts, overall and by category."""

    overall: Accuracy
    categories: Mapping[str, Accuracy]


@dataclass(frozen=True)
class SplitScores:
    """Scores on compositions that training shows, and on held-out ones.

    Only categories with prompts of both kinds count, so an easy category on one side cannot look like composition.
    """

    seen: CategoryScores
    held_out: CategoryScores


@dataclass(frozen=True)
class GenerationScores:
    """How well generated images follow their prompts.

    Attributes:
        overall: accuracy over all prompts.
        categories: accuracy by category of prompts.
        facts: accuracy of each fact over the prompts that state it.
        split: accuracy on seen and on held-out compositions.
    """

    overall: Accuracy
    categories: Mapping[str, Accuracy]
    facts: Mapping[str, Accuracy]
    split: SplitScores


@dataclass(frozen=True)
class VAEQuality:
    """Mean PSNR in dB and SSIM of an autoencoder's round trip of ``scenes`` images; None where it is infinite."""

    scenes: int
    psnr_db: float | None
    ssim: float | None


@dataclass(frozen=True)
class RegionPSNR:
    """Mean PSNR in dB inside and outside the edited region; None where no example has such pixels.

    The ``composited`` values are those after pixels without a visible change were replaced by the source image's.
    """

    inside: float | None
    outside: float | None
    inside_composited: float | None
    outside_composited: float | None


@dataclass(frozen=True)
class EditScores:
    """Scores of the task edit.

    Attributes:
        followed: share of results that show what the instruction asks for.
        operations: the same by operation.
        psnr_db: the edited region is the set of pixels that truly change.
        psnr_db_box: the edited region is the bounding boxes of objects that change.
    """

    followed: Accuracy
    operations: Mapping[str, Accuracy]
    psnr_db: RegionPSNR
    psnr_db_box: RegionPSNR


@dataclass(frozen=True)
class InpaintScores:
    """Scores of the task inpaint.

    Attributes:
        completed: share of results that show the masked object again.
        preserved_exactly: whether all pixels outside the masks equal those of the source images.
    """

    completed: Accuracy
    preserved_exactly: bool


@dataclass(frozen=True)
class UpsamplingPSNR:
    """Mean PSNR in dB of the model's results and of the bicubic upsample."""

    model: float | None
    bicubic: float | None


@dataclass(frozen=True)
class SuperResolveScores:
    """Scores of the task super-resolve: PSNR at a scale ``factor``, and the model's gain over bicubic."""

    factor: int
    psnr_db: UpsamplingPSNR
    gain_db: float | None


TaskScores = EditScores | InpaintScores | SuperResolveScores
