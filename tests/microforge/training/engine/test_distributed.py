"""Several processes: what `accelerate launch` starts equals one process with the whole batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from microforge.errors import CheckpointError, MissingExtraError, SpecError
from microforge.training.engine import distributed as training_processes
from microforge.training.engine.batch_shard import BatchShard
from microforge.training.engine.distributed import (
    ALONE,
    Processes,
    launched_precision,
    open_processes,
)
from microforge.training.engine.state import STATE
from microforge.training.runs.stage_run import run_stage


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launch(mini: Any, out: Path, *options: str) -> None:
    """``accelerate launch`` with two processes on the CPU; what it calls --multi_gpu is torchrun's launcher."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(_free_port()),
        mini.__spec__.origin, *options, "--config", "mini", "--out", str(out), "--set", "device=cpu", "--set", "save_every=2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 1, "one of the processes prints the result"


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def test_two_launched_processes_equal_one_with_the_doubled_batch(tmp_path: Path, mini: Any) -> None:
    start = tmp_path / "start"
    run_stage(mini.request(start, steps=1))
    run_stage(mini.request(start, "flow", steps=1))
    init = str(start / "flow" / "checkpoint")
    one = mini.request(tmp_path / "one", "flow", steps=3, batch=8, init=init)
    run_stage(one)
    run_stage(mini.changed(one, out=tmp_path / "pieces", accumulate=4))
    _launch(
        mini,
        tmp_path / "two",
        "flow",
        "--steps",
        "3",
        "--set",
        "batch=4",
        "--init",
        init,
        "--set",
        "accumulate=2",
    )
    whole = load_file(tmp_path / "one" / "flow" / STATE)
    for other in ("pieces", "two"):
        state = load_file(tmp_path / other / "flow" / STATE)
        assert state.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.allclose(state[name], value, atol=2e-5, rtol=1e-4), (other, name)
        for first, second in zip(
            _log(tmp_path / "one" / "flow"), _log(tmp_path / other / "flow"), strict=True
        ):
            for term in ("loss", "flow", "plan_similarity", "grad_norm"):
                assert first[term] == pytest.approx(second[term], abs=2e-5), (other, term)
    pieces, two = (load_file(tmp_path / name / "flow" / STATE) for name in ("pieces", "two"))
    moved = load_file(start / "flow" / STATE)
    assert not torch.equal(
        two["network.denoiser.backbone.head.weight"], moved["network.denoiser.backbone.head.weight"]
    )
    assert pieces.keys() == two.keys()


def test_shards_of_all_processes_cover_the_batch_once() -> None:
    pieces = [shard for rank in range(3) for shard in Processes(rank, 3).shards(2)]
    rows = [row for piece in pieces for row in range(*piece.rows(12).indices(12))]
    assert rows == list(range(12)) and ALONE.shards(1) == [BatchShard(0, 1)]


def test_average_gradients_sends_few_messages_and_puts_every_mean_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(2, 2))
    network(torch.ones(1, 3)).sum().backward()
    network[2].weight.grad = None  # not used in this step
    before = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    sent: list[int] = []

    def mean(self: Processes, value: Tensor) -> Tensor:
        sent.append(value.numel())
        return value * 3.0

    monkeypatch.setattr(Processes, "mean", mean)
    monkeypatch.setattr(training_processes, "BUCKET", 20)
    Processes(0, 2).average_gradients(network)
    assert sent == [20, 14]
    for parameter, was in zip(network.parameters(), before, strict=True):
        if was is None:
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and torch.equal(parameter.grad, was * 3.0)


def test_processes_with_different_weights_are_asked_to_share_a_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Linear(2, 2)
    Processes(0, 1).check_equal(network, 5)
    monkeypatch.setattr(Processes, "mean", lambda self, value: value)
    Processes(0, 2).check_equal(network, 5)
    monkeypatch.setattr(Processes, "mean", lambda self, value: value * 1.1)
    with pytest.raises(CheckpointError, match="in folders that all machines share"):
        Processes(0, 2).check_equal(network, 5)


def test_missing_accelerate_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        MissingExtraError, match=r"accelerate is not installed: pip install 'microforge\[train\]'"
    ):
        open_processes("cpu")


def test_several_processes_refuse_one_named_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SpecError, match="cuda:1"):
        open_processes("cuda:1")


def test_an_accelerate_launch_that_started_one_process_of_two_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert open_processes("cpu") == ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(SpecError, match="torchrun --nproc_per_node"):
        open_processes("cpu")


def test_launched_precision_is_bf16_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not launched_precision()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launched_precision()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(SpecError, match="allowed: no, bf16"):
        launched_precision()
