import numpy as np
import pytest
import torch
from torch import Tensor

from microforge import ssm

GRIDS = [(8, 8), (16, 16), (8, 12), (16, 32), (3, 5), (7, 1)]


def _inputs(height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ssm.Direction, ssm.Direction]:
    generator = torch.Generator().manual_seed(height * 100 + width)
    tokens = height * width

    def direction() -> ssm.Direction:
        decays = -0.5 * torch.rand(2, 3, tokens, generator=generator, dtype=dtype)
        b, c = (torch.randn(2, tokens, 16, generator=generator, dtype=dtype) / 4 for _ in range(2))
        return ssm.Direction(decays, b, c)

    return torch.randn(2, 3, tokens, 8, generator=generator, dtype=dtype), direction(), direction()


def _as_double(side: ssm.Direction) -> ssm.Direction:
    return ssm.Direction(side.a.double(), side.b.double(), side.c.double())


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("path", range(ssm.PATHS))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_dense_and_chunked_equal_the_recurrence(
    grid: tuple[int, int], path: int, dtype: torch.dtype, tolerance: float
) -> None:
    x, forward, backward = _inputs(*grid, dtype)
    expected = ssm.sequential(x.double(), _as_double(forward), _as_double(backward), path, *grid)
    scale = expected.abs().max().clamp(min=1.0)
    for form in (ssm.dense, ssm.chunked):
        error = (form(x, forward, backward, path, *grid).double() - expected).abs().max() / scale
        assert error < tolerance, f"{form.__name__} {grid} path {path}: {error}"


@pytest.mark.parametrize("side", ["forward", "backward"])
def test_each_direction_alone_equals_the_recurrence(side: str) -> None:
    x, forward, backward = _inputs(8, 12, torch.float64)
    silent = ssm.Direction(forward.a, torch.zeros_like(forward.b), forward.c)
    pair = (forward, silent) if side == "forward" else (silent, backward)
    for path in range(ssm.PATHS):
        expected = ssm.sequential(x, *pair, path, 8, 12)
        assert (ssm.dense(x, *pair, path, 8, 12) - expected).abs().max() < 1e-12
        assert (ssm.chunked(x, *pair, path, 8, 12, chunk=24) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunked_gives_the_same_for_every_chunk_size(chunk: int) -> None:
    x, forward, backward = _inputs(6, 10, torch.float64)
    for path in range(ssm.PATHS):
        expected = ssm.dense(x, forward, backward, path, 6, 10)
        assert (ssm.chunked(x, forward, backward, path, 6, 10, chunk) - expected).abs().max() < 1e-12


def test_dense_stays_finite_at_the_strongest_decay() -> None:
    x, forward, backward = _inputs(16, 32, torch.float32)
    strongest = ssm.Direction(torch.full_like(forward.a, -0.5), forward.b, forward.c)
    assert torch.isfinite(ssm.dense(x, strongest, backward, 0, 16, 32)).all()
    assert torch.isfinite(ssm.chunked(x, strongest, backward, 0, 16, 32)).all()


def test_scan_positions_are_four_different_unbroken_walks() -> None:
    seen = set()
    for path in range(ssm.PATHS):
        position = ssm.scan_positions(path, 5, 6)
        assert sorted(position.tolist()) == list(range(30))
        rows, columns = np.divmod(np.argsort(position), 6)
        steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
        assert (steps == 1).all(), "a zigzag only moves to a neighbour"
        seen.add(tuple(position))
        seen.add(tuple(29 - position))
    assert len(seen) == 8, "four paths and their reverses are Zigzag-8"


def test_precedence_is_an_order() -> None:
    order = ssm.precedence(1, 4, 3)
    assert (np.diag(order) == 1).all()
    assert ((order + order.T) == 1 + np.eye(12)).all()
