"""KID, the kernel distance between two sets of images: an unbiased squared MMD (arXiv 1801.01401, equation 4).

    features (N, F) of images and of references -> mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

The kernel is ``k(x, y) = (x . y / F + 1)^3``. The features are those of this package's classifier, so a value is
comparable only with values under the same classifier, and not with FID or with KID on Inception features. Two samples of
one distribution have an expected value of zero; an unbiased estimate of it is negative as often as positive.

Letters: N images, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from microforge.errors import DataError

MIN_SUBSETS = 10
SUBSET = 100
_ROWS = 1024  # of a kernel matrix in memory at once


@dataclass(frozen=True)
class Kid:
    """A kernel distance, its standard error (None for fewer than two subsets), and the number of subsets."""

    value: float
    stderr: float | None
    subsets: int


def polynomial_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Polynomial kernel ``(x . y / F + 1)^3`` of every row of (N, F) with every row of (M, F): (N, M)."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def squared_mmd(x: Tensor, y: Tensor, *, paired: bool = False) -> float:
    """Unbiased squared maximum mean discrepancy of two samples.

    Args:
        x: features (N, F) of one sample.
        y: features (M, F) of the other sample.
        paired: rows i of both samples belong to one prompt. Such rows are similar whatever the distributions are, so the
            pairs (i, i) are left out of the mixed term: the one-sample statistic of Gretton et al. (JMLR 2012,
            lemma 6), which is unbiased for pairs that are sampled together.

    Raises:
        DataError: for fewer than two rows, different widths, or pairs of different number.
    """
    _check(x, y, paired)
    x, y = x.double(), y.double()
    n, m = len(x), len(y)
    within = _off_diagonal(x) / (n * (n - 1)) + _off_diagonal(y) / (m * (m - 1))
    if not paired:
        return within - 2.0 * _total(x, y) / (n * m)
    return within - 2.0 * (_total(x, y) - float(_diagonal(x, y).sum())) / (n * (n - 1))


def kid(x: Tensor, y: Tensor, *, paired: bool = False, seed: int = 0) -> Kid:
    """KID of images with features ``x`` from references with features ``y``.

    The value is ``squared_mmd`` of all rows, the mean over all ways to divide the samples into subsets. The standard
    error comes from one division into disjoint subsets: at least ten where possible, and of about a hundred images. It is
    the error of their mean, which varies more than the value, so it is conservative.

    Args:
        x: features (N, F) of the images.
        y: features (M, F) of the references.
        paired: as in ``squared_mmd``.
        seed: seed of the division into subsets.

    Raises:
        DataError: as in ``squared_mmd``.
    """
    value = squared_mmd(x, y, paired=paired)
    smaller = min(len(x), len(y))
    subsets = max(1, min(max(MIN_SUBSETS, smaller // SUBSET), smaller // 2))
    if subsets == 1:
        return Kid(value, None, 1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    other = order if paired else torch.randperm(len(y), generator=generator)
    parts = zip(order.tensor_split(subsets), other.tensor_split(subsets), strict=True)
    estimates = torch.tensor(
        [squared_mmd(x[rows], y[columns], paired=paired) for rows, columns in parts], dtype=torch.float64
    )
    return Kid(value, float(estimates.std()) / math.sqrt(subsets), subsets)


def _check(x: Tensor, y: Tensor, paired: bool) -> None:
    shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise DataError(f"KID compares features (N, F) and (M, F) of one width, got {shapes}")
    if min(len(x), len(y)) < 2:
        raise DataError(f"KID needs at least two images in both sets, got features {shapes}")
    if paired and len(x) != len(y):
        raise DataError(f"paired features need one reference for each image, got {shapes}")


def _total(x: Tensor, y: Tensor) -> float:
    """Sum of the kernel over all pairs, computed in blocks of rows."""
    starts = range(0, len(x), _ROWS)
    return sum(float(polynomial_kernel(x[start : start + _ROWS], y).sum()) for start in starts)


def _off_diagonal(x: Tensor) -> float:
    return _total(x, x) - float(_diagonal(x, x).sum())


def _diagonal(x: Tensor, y: Tensor) -> Tensor:
    """Kernel of row i of ``x`` with row i of ``y``: (N,)."""
    return ((x * y).sum(1) / x.shape[1] + 1.0) ** 3
