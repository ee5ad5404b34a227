"""The stage rewrite: an ambiguous prompt learns the reference velocity of its rewritten form."""

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
from microforge.data.world.image_source import SceneSource
from microforge.errors import DataError, SpecError
from microforge.sampling import loss_weight
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import ALONE
from microforge.training.loop_options import LoopSettings
from microforge.training.losses.terms import weighted_velocity
from microforge.training.runs.stage_run import run_stage
from microforge.training.settings import RewriteSettings
from microforge.training.stages import judged_samples
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowContext, FlowStage
from microforge.training.stages.flow_network import predict
from microforge.training.stages.rewrite import RewriteStage


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Accepts what its ``accepts`` says: a miniature generates nothing that the real one would accept."""
    oracle = SimpleNamespace(accepts=lambda prompt: prompt.relation != "above")
    monkeypatch.setattr(judged_samples, "detect", lambda image: None)
    monkeypatch.setattr(
        judged_samples, "judge", lambda prompt, _: SimpleNamespace(correct=oracle.accepts(prompt))
    )
    return oracle


def _stage(tmp_path: Path, mini: Any, **options: Any) -> RewriteStage:
    init = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewriteSettings(**{**mini.FLOW, "judged_samples": 48, "sampling_steps": 1, **options})
    context, console = FlowContext.open(mini.MINI, init, LoopSettings(), (64, 64)), Console(quiet=True)
    flow = FlowStage(context, settings, SceneSource(), tmp_path / "latents", console, init)
    edit = EditStage(flow, settings, SceneTriples(), init, tmp_path / "triples", console)
    stage = RewriteStage(edit, settings, init, init)
    stage.prepare(tmp_path, console, ALONE)
    return stage


@pytest.mark.usefixtures("oracle")
def test_samples_that_show_the_rewritten_prompt_are_stored_with_both_prompts(
    tmp_path: Path, mini: Any
) -> None:
    stage = _stage(tmp_path, mini, samples_per_prompt=2)
    pairs = [pair for pair in stage.pairs() if pair.rewritten.relation != "above"]
    assert 0 < len(stage.latents) == 2 * len(pairs)
    for ids, texts in (
        (stage.prompt_ids, [pair.prompt for pair in pairs]),
        (stage.rewritten_ids, [pair.rewritten.text for pair in pairs]),
    ):
        wanted = stage.context.encoder.ids(texts, "generate").repeat_interleave(2, 0)
        assert torch.equal(ids, wanted)
    assert not torch.equal(stage.prompt_ids, stage.rewritten_ids)


@pytest.mark.usefixtures("oracle")
def test_a_step_chooses_pairs_anew_and_drops_both_prompts_together(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, text_dropout=0.5)
    batch, rewritten_ids = stage.make_batch(0, WHOLE)
    count = stage.settings.judged_captions
    assert (
        len(batch.ids) == len(rewritten_ids) == count and len(batch.t) == count * stage.settings.noise_samples
    )
    empty = stage.edit.flow.empty
    dropped = [bool((row == empty[: len(row)]).all()) for row in batch.ids]
    assert dropped == [bool((row == empty[: len(row)]).all()) for row in rewritten_ids]
    assert 0 < sum(dropped) < count
    again = stage.make_batch(0, WHOLE)[0]
    assert torch.equal(batch.z, again.z) and not torch.equal(batch.z, stage.make_batch(1, WHOLE)[0].z)


@pytest.mark.usefixtures("oracle")
def test_the_loss_is_the_distance_to_the_reference_velocity_of_the_rewritten_prompt(
    tmp_path: Path, mini: Any
) -> None:
    stage = _stage(tmp_path, mini, rewrite=0.5)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)  # away from the starting weights
        batch, rewritten_ids = stage.make_batch(0, WHOLE)
        wanted = predict(stage.reference, replace(batch, ids=rewritten_ids))[0]
        velocity = predict(stage.network, batch)[0]
        terms = stage.loss(0)
        rewrite = weighted_velocity(velocity, wanted, loss_weight(batch.t))
        assert torch.allclose(terms["rewrite"], rewrite, rtol=1e-5)
        assert torch.allclose(terms["loss"], stage.edit.loss(0)["loss"] + 0.5 * rewrite)


@pytest.mark.usefixtures("oracle")
def test_pieces_of_a_step_are_its_whole(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        whole = stage.loss(3)
        halves = [stage.loss(3, BatchShard(index, 2)) for index in range(2)]
    for name in ("loss", "rewrite"):
        assert torch.allclose(whole[name], (halves[0][name] + halves[1][name]) / 2, atol=1e-5), name


def test_rewrite_without_a_correct_sample_is_a_data_error(
    tmp_path: Path, mini: Any, oracle: SimpleNamespace
) -> None:
    oracle.accepts = lambda prompt: False
    with pytest.raises(DataError, match="none of 48 samples shows its prompt"):
        _stage(tmp_path, mini)


@pytest.mark.usefixtures("oracle")
def test_rewrite_trains_a_flow_and_equals_itself_when_resumed(tmp_path: Path, mini: Any) -> None:
    init = str(mini.random_checkpoint(tmp_path / "init"))
    request = mini.request(tmp_path / "run", "rewrite", steps=2, init=init)
    run_stage(request)
    folder = tmp_path / "run" / "rewrite"
    last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert last["rewrite"] > 0.0 and "generate" in last
    run_stage(mini.changed(request, steps=3, resume=True))
    run_stage(mini.changed(request, steps=3, out=tmp_path / "whole"))
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
        ({"samples_per_prompt": 0}, "samples_per_prompt is 0; allowed: 1 or more"),
        ({"judged_time_shift": -1.0}, "judged_time_shift is -1.0; allowed: above 0"),
    ):
        with pytest.raises(SpecError, match=message):
            RewriteSettings(**{**mini.FLOW, **values})
