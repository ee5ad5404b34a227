"""Data-parallel training: one process, or those that ``accelerate launch`` or ``torchrun`` started on any machines.

Stages call parts of the network directly (EMA, torch.compile, activation checkpointing), so the network is not wrapped in
DistributedDataParallel. Every process holds the whole network, computes its ``BatchShard`` of each step, and gradients are
averaged before the update. All processes apply the same update to the same numbers, so their weights stay equal.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from microforge.errors import CheckpointError, SpecError, missing_extra
from microforge.training.engine.batch_shard import BatchShard

#: How long the other processes wait while the main one encodes a data set.
PATIENCE = timedelta(hours=12)
#: Environment variables in which torchrun, accelerate and MPI give the number of processes.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
#: Gradients are sent in messages of about this many numbers instead of one per parameter.
BUCKET = 8_000_000


@dataclass(frozen=True)
class Processes:
    """This process among the ``count`` processes of a run; with one process every method is free."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, logs and generates sample sheets."""
        return self.rank == 0

    def shards(self, accumulate: int) -> list[BatchShard]:
        """The pieces of a step's batch that belong to this process, one per micro-batch."""
        return [BatchShard(self.rank * accumulate + k, self.count * accumulate) for k in range(accumulate)]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` (any shape) over the processes, returned in each of them."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        result: Tensor = reduce(value, "mean")
        return result

    @torch.no_grad()
    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of ``network`` by their means over the processes, in a few large messages."""
        if self.count == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.reshape(gradient.shape))

    def agree(self, steps: int) -> int:
        """The mean of the processes' estimates of a number of steps, the same in all of them."""
        return steps if self.count == 1 else int(self.mean(torch.tensor(float(steps), device=self.device)))

    def check_equal(self, network: nn.Module, step: int) -> None:
        """Check that all processes start from the same step and weights.

        Raises:
            CheckpointError: when they do not, for instance because --out is another folder on each machine.
        """
        if self.count == 1:
            return
        weights = torch.stack([p.detach().double().abs().sum() for p in network.parameters()]).sum()
        fingerprint = torch.stack([weights, weights.new_tensor(float(step))]).float()
        spread = self.mean((fingerprint - self.mean(fingerprint)).abs())
        if bool((spread > 1e-6 * fingerprint.abs()).any()):
            raise CheckpointError(
                "the processes do not start from the same weights: --out and --data must be in folders that all "
                "machines share"
            )

    def wait(self) -> None:
        """Block until every process has reached this point."""
        if self.count > 1:
            _state().wait_for_everyone()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process first: it fills the caches that the others read."""
        if self.count == 1:
            yield
        else:
            with _state().main_process_first():
                yield


ALONE = Processes()


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def open_processes(device: str) -> Processes:
    """Join the other processes of a distributed run, if there are any.

    Args:
        device: As returned by ``pick_device``; each process on a machine gets its own GPU.

    Raises:
        MissingExtraError: when there are several processes and accelerate is not installed.
        SpecError: when several processes cannot share ``device``, or processes were requested but not started.
    """
    if max(int(os.environ.get(name, "1")) for name in WORLD_SIZES) < 2:
        if os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ:
            raise SpecError(
                "accelerate launch --cpu starts a single process unless mpirun starts the others; on CPUs use "
                "torchrun --nproc_per_node N -m microforge.training.cli ..."
            )
        return Processes(device=device)
    if device not in ("cpu", "cuda"):
        raise SpecError(f"device {device!r} cannot be used by several processes; allowed: auto, cpu, cuda")
    state = _state(device)
    return Processes(state.process_index, state.num_processes, str(state.device))


def _state(device: str = "cpu") -> Any:  # accelerate has no types
    """accelerate's process state, a singleton that keeps the arguments of its first construction."""
    try:
        from accelerate import PartialState
    except ImportError:
        raise missing_extra("accelerate", "train") from None
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def launched_precision() -> bool:
    """Whether ``accelerate launch --mixed_precision`` requested bfloat16.

    Raises:
        SpecError: for a precision that training does not support.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise SpecError(f"--mixed_precision is {precision!r}; allowed: no, bf16")
    return precision == "bf16"


def is_main_process() -> bool:
    """Whether this process prints the command's result, which the others would only repeat."""
    return os.environ.get("RANK", "0") == "0"


def end_processes(processes: Processes) -> None:
    """Leave the process group."""
    if processes.count > 1:
        _state().destroy_process_group()
