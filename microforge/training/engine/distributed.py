"""The processes of a run: one, or as many as ``accelerate launch`` or ``torchrun`` started, on any machines.

Stages call parts of the network directly (EMA, torch.compile, checkpointed blocks), so the network is not
wrapped: every process holds all of it, works on its ``Shard`` of each step's batch, and gradients are averaged
before the update. Weights stay equal because every process does the same update to the same numbers.
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
from microforge.training.engine.batch_shard import Shard

#: Encoding a data set on the main process may take long; the others wait so many hours.
PATIENCE = timedelta(hours=12)
#: Where torchrun, accelerate and MPI say how many processes there are.
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
#: Gradients travel in pieces of about so many numbers, not one message per parameter.
BUCKET = 8_000_000


@dataclass(frozen=True)
class Processes:
    """This process among ``count``; a single one needs nothing of what is below."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes, logs and draws samples."""
        return self.rank == 0

    def shards(self, accumulate: int) -> list[Shard]:
        """This process's pieces of a step's batch, one per micro-batch."""
        return [Shard(self.rank * accumulate + k, self.count * accumulate) for k in range(accumulate)]

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value``, any shape, over the processes; every one gets it."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        result: Tensor = reduce(value, "mean")
        return result

    @torch.no_grad()
    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of ``network`` by their means over the processes, a few large messages in all."""
        if self.count == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = self.mean(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            pieces = torch.split(flat, [gradient.numel() for gradient in bucket])
            for gradient, piece in zip(bucket, pieces, strict=True):
                gradient.copy_(piece.reshape(gradient.shape))

    def agree(self, steps: int) -> int:
        """The mean of what every process estimates, the same for all of them."""
        return steps if self.count == 1 else int(self.mean(torch.tensor(float(steps), device=self.device)))

    def check_equal(self, network: nn.Module, step: int) -> None:
        """Every process must start from the same step and weights.

        Raises:
            CheckpointError: when one does not, as when --out is a different folder on each machine.
        """
        if self.count == 1:
            return
        weights = torch.stack([p.detach().double().abs().sum() for p in network.parameters()]).sum()
        mine = torch.stack([weights, weights.new_tensor(float(step))]).float()
        spread = self.mean((mine - self.mean(mine)).abs())
        if bool((spread > 1e-6 * mine.abs()).any()):
            raise CheckpointError(
                "the processes do not start from the same weights: --out and --data must be on a folder that all "
                "machines share"
            )

    def wait(self) -> None:
        """Until every process has come here."""
        if self.count > 1:
            _state().wait_for_everyone()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process does the block before the others do: it fills the caches that they read."""
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
    """Join the other processes, if ``accelerate launch`` started any.

    Args:
        device: as ``pick_device`` returned it; each process on a machine takes a GPU of its own.

    Raises:
        MissingExtraError: when there are several processes and accelerate is not installed.
        SpecError: when several processes cannot share ``device``, or were asked for and not started.
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
    """accelerate's process control, a singleton: its arguments count when it is first made."""
    try:
        from accelerate import PartialState
    except ImportError:
        raise missing_extra("accelerate", "train") from None
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def launched_precision() -> bool:
    """Whether ``accelerate launch --mixed_precision`` asked for bfloat16.

    Raises:
        SpecError: for a precision that training does not have.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("no", "bf16"):
        raise SpecError(f"--mixed_precision is {asked!r}; allowed: no, bf16")
    return asked == "bf16"


def speaks() -> bool:
    """Whether this process prints the command's result: the others would repeat it. To be asked after training."""
    return os.environ.get("RANK", "0") == "0"


def end_processes(processes: Processes) -> None:
    """Leave the others in good order."""
    if processes.count > 1:
        _state().destroy_process_group()
