"""The stage rewrite: a vague prompt follows what the weights before the run say for the clear one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.world.edit_triples import SceneTriples
from microforge.errors import DataError, SpecError
from microforge.sampling import loss_weight
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.distributed import ALONE
from microforge.training.losses.terms import weighted_velocity
from microforge.training.runs.stage_run import run_stage
from microforge.training.settings import LoopSettings, RewriteSettings
from microforge.training.stages import judged_samples
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowStage, predict
from microforge.training.stages.judged_samples import prompt_ids
from microforge.training.stages.rewrite import RewriteStage


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Finds right what its ``finds`` says: a miniature draws nothing that the real one would."""
    found = SimpleNamespace(finds=lambda prompt: prompt.relation != "above")
    monkeypatch.setattr(judged_samples, "detect", lambda image: None)
    monkeypatch.setattr(
        judged_samples, "judge", lambda prompt, _: SimpleNamespace(correct=found.finds(prompt))
    )
    return found


def _stage(tmp_path: Path, mini: Any, **options: Any) -> RewriteStage:
    init = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewriteSettings(**{**mini.FLOW, "judged": 48, "drawing_steps": 1, **options})
    flow = FlowStage(
        mini.MINI, init, settings, LoopSettings(), (64, 64), tmp_path / "latents", Console(quiet=True), init
    )
    stage = RewriteStage(
        EditStage(flow, settings, SceneTriples(), init, tmp_path / "triples", Console(quiet=True)),
        settings,
        init,
    )
    stage.prepare(tmp_path / "judged.safetensors", init, Console(quiet=True), ALONE)
    return stage


@pytest.mark.usefixtures("oracle")
def test_drawings_that_show_what_was_meant_stand_beside_both_prompts(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, group=2)
    pairs = [pair for pair in stage.pairs() if pair.rewritten.relation != "above"]
    assert 0 < len(stage.latents) == 2 * len(pairs)
    for ids, texts in (
        (stage.asked, [pair.prompt for pair in pairs]),
        (stage.meant, [pair.rewritten.text for pair in pairs]),
    ):
        wanted = prompt_ids(stage.flow.tokenizer, texts, ids.shape[1]).repeat_interleave(2, 0)
        assert torch.equal(ids, wanted)
    assert not torch.equal(stage.asked, stage.meant)


@pytest.mark.usefixtures("oracle")
def test_a_step_draws_pairs_anew_and_drops_both_prompts_together(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, text_dropout=0.5)
    batch, meant = stage.draw(0, WHOLE)
    count = stage.settings.judged_captions
    assert len(batch.ids) == len(meant) == count and len(batch.t) == count * stage.settings.draws
    empty = stage.flow.empty
    dropped = [bool((row == empty[: len(row)]).all()) for row in batch.ids]
    assert dropped == [bool((row == empty[: len(row)]).all()) for row in meant]
    assert 0 < sum(dropped) < count
    again = stage.draw(0, WHOLE)[0]
    assert torch.equal(batch.z, again.z) and not torch.equal(batch.z, stage.draw(1, WHOLE)[0].z)


@pytest.mark.usefixtures("oracle")
def test_the_loss_pulls_the_vague_prompt_to_what_the_clear_one_said_before(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, rewrite=0.5)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)  # somewhere else than before the run
        batch, meant = stage.draw(0, WHOLE)
        wanted = predict(stage.before, replace(batch, ids=meant))[0]
        velocity = predict(stage.flow.network, batch)[0]
        found = stage.loss(0)
        rewrite = weighted_velocity(velocity, wanted, loss_weight(batch.t))
        assert torch.allclose(found["rewrite"], rewrite, rtol=1e-5)
        assert torch.allclose(found["loss"], stage.edit.loss(0)["loss"] + 0.5 * rewrite)


@pytest.mark.usefixtures("oracle")
def test_pieces_of_a_step_are_its_whole(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        whole = stage.loss(3)
        halves = [stage.loss(3, Shard(index, 2)) for index in range(2)]
    for name in ("loss", "rewrite"):
        assert torch.allclose(whole[name], (halves[0][name] + halves[1][name]) / 2, atol=1e-5), name


def test_drawings_that_show_nothing_teach_nothing(tmp_path: Path, mini: Any, oracle: SimpleNamespace) -> None:
    oracle.finds = lambda prompt: False
    with pytest.raises(DataError, match="of 48 drawings not one shows its prompt"):
        _stage(tmp_path, mini)


@pytest.mark.usefixtures("oracle")
def test_rewrite_trains_a_flow_and_equals_itself_when_resumed(tmp_path: Path, mini: Any) -> None:
    init = str(mini.random_checkpoint(tmp_path / "init"))
    request = mini.request(tmp_path / "run", "rewrite", steps=2, init=init)
    run_stage(request)
    folder = tmp_path / "run" / "rewrite"
    last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert last["rewrite"] > 0.0 and "generate" in last
    run_stage(replace(request, steps=3, resume=True))
    run_stage(replace(request, steps=3, out=tmp_path / "whole"))
    one, other = (read_checkpoint(tmp_path / name / "rewrite" / "checkpoint") for name in ("run", "whole"))
    assert one.stages[-1] == "rewrite"
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def test_rewrite_refuses_what_it_cannot_learn_from(tmp_path: Path, mini: Any) -> None:
    init = str(mini.random_checkpoint(tmp_path / "init"))
    for options, message in (
        ({"data": "photos", "init": init}, "the stage rewrite needs captions that the oracle can judge"),
        ({}, "has no flow yet"),
    ):
        with pytest.raises(ValueError, match=message):
            run_stage(mini.request(tmp_path / "run", "rewrite", **options))
    for values, message in (
        ({"rewrite": 0.0}, "rewrite is 0.0; allowed: above 0"),
        ({"group": 0}, "group is 0; allowed: 1 or more"),
        ({"judged_shift": -1.0}, "judged_shift is -1.0; allowed: above 0"),
    ):
        with pytest.raises(SpecError, match=message):
            RewriteSettings(**{**mini.FLOW, **values})
