"""``mf-train all``: phases in order, each resumed or skipped, never mixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from microforge.checkpoint import read_checkpoint
from microforge.errors import CheckpointError, MicroForgeError, OutputExistsError
from microforge.training.engine.state import steps_done
from microforge.training.loop_options import DataOptions
from microforge.training.runs.curriculum import CURRICULA, read_curriculum
from microforge.training.runs.curriculum_run import estimate_all, fitting_phases, plan_phases, run_all
from microforge.training.runs.request import StageOptions, TrainRequest

CURRICULUM = """config = "mini"
[[phase]]
stage = "vae"
size = "64"
steps = 2
[[phase]]
stage = "vae"
size = "96"
steps = 2
[[phase]]
stage = "vae"
decoder_only = true
size = "96"
steps = 1
[[phase]]
stage = "flow"
size = "64"
steps = 2
[[phase]]
stage = "flow"
size = "96"
steps = 2
accumulate = 2
"""
NAMES = ["1-vae-64", "2-vae-96", "3-vae-decoder-96", "4-flow-64", "5-flow-96"]


@pytest.fixture
def request_(tmp_path: Path, mini: Any) -> Any:
    """A run of all phases, into ``run``."""
    (tmp_path / "mine.toml").write_text(CURRICULUM, "utf-8")
    return mini.request(tmp_path / "run", "all", config=None, curriculum=tmp_path / "mine.toml")


def test_all_trains_every_phase_from_the_one_before_and_skips_what_is_finished(
    request_: Any, mini: Any
) -> None:
    result = run_all(request_)
    run = request_.out
    assert result.checkpoint == run / "5-flow-96" / "checkpoint"
    assert [phase.phase for phase in result.phases] == NAMES
    vae, decoder, flow = (read_checkpoint(run / NAMES[index] / "checkpoint") for index in (1, 2, 4))
    assert flow.spec.native_size == (96, 96) and flow.stages == ("vae", "flow")
    for name, value in flow.module_tensors("vae").items():
        assert torch.equal(value, decoder.module_tensors("vae")[name]), "the flow carries the tuned decoder"
        near = torch.allclose(value, vae.module_tensors("vae")[name], atol=2e-2)
        assert near and (torch.equal(value, vae.module_tensors("vae")[name]) or name.startswith("decoder."))
    stamps = [(run / name / "state.safetensors").stat().st_mtime_ns for name in NAMES]
    again = run_all(mini.changed(request_, resume=True))
    assert [phase.loss for phase in again.phases] == [None] * 5
    assert [(run / name / "state.safetensors").stat().st_mtime_ns for name in NAMES] == stamps
    with pytest.raises(OutputExistsError, match="--resume continues"):
        run_all(request_)


def test_all_continues_in_the_phase_that_was_stopped(request_: Any, mini: Any) -> None:
    short = "".join(CURRICULUM.partition('[[phase]]\nstage = "flow"')[:1])  # the VAE's phases
    request_.curriculum.write_text(short, "utf-8")
    run_all(request_)
    longer = short.replace(
        'decoder_only = true\nsize = "96"\nsteps = 1', 'decoder_only = true\nsize = "96"\nsteps = 3'
    )
    request_.curriculum.write_text(longer, "utf-8")
    result = run_all(mini.changed(request_, resume=True))
    losses = [phase.loss for phase in result.phases]
    assert losses[:2] == [None, None] and losses[2] is not None
    assert steps_done(request_.out / NAMES[2]) == 3


def test_all_refuses_to_continue_before_a_phase_that_is_already_trained(request_: Any, mini: Any) -> None:
    short = CURRICULUM.partition('[[phase]]\nstage = "flow"')[0]
    request_.curriculum.write_text(short, "utf-8")
    run_all(request_)
    request_.curriculum.write_text(short.replace('size = "64"\nsteps = 2', 'size = "64"\nsteps = 3'), "utf-8")
    with pytest.raises(
        CheckpointError, match="2-vae-96 was trained, but 1-vae-64, which it starts from, is not"
    ):
        run_all(mini.changed(request_, resume=True))
    run_all(mini.changed(request_, force=True))
    assert steps_done(request_.out / NAMES[0]) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 3}, "steps belongs to a single stage"),
        ({"decoder_only": True}, "decoder_only belongs to a single stage"),
        ({"init": "pretrained"}, "init belongs to a single stage"),
        ({"config": "nano"}, "--config is nano and mine.toml is for mini"),
        ({"curriculum": Path("no.toml")}, "cannot read the curriculum no.toml"),
        ({"resume": True}, "nothing to resume"),
        ({"accumulate": 3}, "does not divide into 3 micro-batches"),
        ({"device": "tpu"}, "not available"),
    ],
)
def test_all_refuses_bad_options_before_anything_is_written(
    request_: Any, mini: Any, change: dict[str, object], says: str
) -> None:
    with pytest.raises(MicroForgeError, match=says):
        run_all(mini.changed(request_, **change))
    assert not request_.out.exists()


def test_all_refuses_a_checkpoint_that_is_not_there_before_the_first_phase(request_: Any, mini: Any) -> None:
    kd = '[[phase]]\nstage = "kd"\nsize = "96"\nteacher = "nowhere"\n'
    request_.curriculum.write_text(CURRICULUM + kd, "utf-8")
    with pytest.raises(CheckpointError, match="phase 6-kd-96 needs the checkpoint nowhere, which is missing"):
        run_all(request_)
    assert not request_.out.exists()


def test_all_dry_run_describes_every_phase_and_writes_nothing(
    request_: Any, mini: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    short = CURRICULUM.partition('[[phase]]\nstage = "vae"\nsize = "96"')[0]
    request_.curriculum.write_text(short, "utf-8")
    result = estimate_all(request_)
    assert [phase.values()["size"] for phase in result] == [[64, 64]]
    assert "1-vae-64" in capsys.readouterr().err and not request_.out.exists()


@pytest.mark.parametrize("config", ["nano", "tiny", "small", "base"])
def test_the_packages_curricula_take_images_without_edits_and_then_leave_edit_out(
    config: str, tmp_path: Path
) -> None:
    curriculum = read_curriculum(CURRICULA / f"{config}.toml")
    own = TrainRequest("all", tmp_path / "run", StageOptions(config=config), DataOptions(str(tmp_path)))
    assert any(phase.head.stage == "edit" for phase in curriculum.phases)
    stages = [phase.plan.stage for phase in plan_phases(fitting_phases(curriculum, own), own)]
    assert stages and "edit" not in stages and stages[-1] == "flow"
    for data in (DataOptions(str(tmp_path), edits="mine"), DataOptions()):
        assert fitting_phases(curriculum, replace(own, data=data)) == curriculum
