"""The stage reward: own drawings judged in groups, and a loss that leaves the weights alone where nothing is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.world.captions import Prompt
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.scenes import HELD_OUT
from microforge.errors import DataError, SpecError
from microforge.sampling import loss_weight, velocity_target
from microforge.training.engine.batch_shard import WHOLE, Shard
from microforge.training.engine.distributed import ALONE
from microforge.training.losses.terms import weighted_velocity
from microforge.training.runs.curriculum import read_curriculum
from microforge.training.runs.stage_run import run_stage
from microforge.training.runs.starting_weights import open_checkpoint
from microforge.training.settings import LoopSettings, RewardSettings
from microforge.training.stages import judged_samples
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowStage, predict
from microforge.training.stages.judged_samples import (
    PART,
    Judged,
    advantages,
    judged_prompts,
    load_or_draw,
)
from microforge.training.stages.reward import RewardStage


def _stage(tmp_path: Path, mini: Any, **options: Any) -> RewardStage:
    """A stage with judged drawings that are random numbers: of every caption the first is right, the others wrong."""
    init = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewardSettings(**{**mini.FLOW, "judged": 24, "group": 3, **options})
    flow = FlowStage(
        mini.MINI, init, settings, LoopSettings(), (64, 64), tmp_path / "latents", Console(quiet=True), init
    )
    stage = RewardStage(
        EditStage(flow, settings, SceneTriples(), init, tmp_path / "triples", Console(quiet=True)),
        settings,
        init,
    )
    latents = torch.randn(8, 3, *flow.latents.shape[1:]).half()
    right = torch.tensor([[True, False, False]] * 8)
    stage.judged = Judged(latents, flow.data.captions[:8, 0].int(), right)
    stage.advantage = advantages(right)
    return stage


@pytest.fixture
def odd_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle that finds every second drawing right: a miniature draws nothing that the real one would."""
    count = iter(range(10**6))
    monkeypatch.setattr(judged_samples, "detect", lambda image: None)
    monkeypatch.setattr(
        judged_samples, "judge", lambda prompt, found: SimpleNamespace(correct=next(count) % 2 == 1)
    )


def test_advantages_are_relative_to_the_caption_and_cut() -> None:
    right = torch.tensor([[True, False, True, False], [True] * 4, [False] * 4])
    found = advantages(right)
    assert found[0].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert not found[1:].any(), "nothing to tell apart"
    rare = advantages(torch.tensor([[True] + [False] * 15]))
    assert rare.max() == judged_samples.MOST_ADVANTAGE and -0.3 < float(rare.min()) < 0.0


def test_telling_leaves_out_captions_that_are_always_or_never_right() -> None:
    right = torch.tensor([[True, True], [True, False], [False, False]])
    some = Judged(torch.arange(6.0).reshape(3, 2), torch.tensor([[1], [2], [3]]), right).telling()
    assert some.ids.tolist() == [[2]] and some.latents.tolist() == [[2.0, 3.0]]
    with pytest.raises(DataError, match="of 3 captions not one was drawn both rightly and wrongly"):
        Judged(torch.zeros(3, 2), torch.zeros(3, 1), torch.ones(3, 2, dtype=torch.bool)).telling()


def test_judged_prompts_are_of_seen_compositions_and_the_same_again() -> None:
    found = judged_prompts(600, seed=3)
    assert [one.text for one in found] == [one.text for one in judged_prompts(600, seed=3)]
    assert {(item.color, item.shape) for one in found for item in one.objects}.isdisjoint(HELD_OUT)
    pairs = np.mean([len(one.objects) == 2 for one in found])
    assert 0.6 < pairs < 0.85, "mostly scenes of several objects"
    assert any(one.text.startswith("A ") or "backdrop" in one.text for one in found), (
        "as training's captions are"
    )


def test_the_loss_is_the_flows_for_right_drawings_and_holds_still_without_advantage(
    tmp_path: Path, mini: Any
) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)  # somewhere else than before the run
        batch, _ = stage.draw(0, WHOLE)
        velocity, before = predict(stage.flow.network, batch)[0], predict(stage.before, batch)[0]
        weight = loss_weight(batch.t)
        wanted = velocity_target(batch.z0, batch.noise)
        for advantage, target in ((1.0, wanted), (0.0, before), (-1.0, 2 * before - wanted)):
            stage.advantage = torch.full((8, 3), advantage)
            found = stage.loss(0)
            assert torch.allclose(found["reward"], weighted_velocity(velocity, target, weight), rtol=1e-5)
            gain = weighted_velocity(before, target, weight) - found["reward"]
            assert torch.allclose(found["reward_gain"], gain, atol=1e-5)


def test_the_gain_is_nothing_before_the_first_step(tmp_path: Path, mini: Any) -> None:
    found = _stage(tmp_path, mini, reward=0.5).loss(0)
    assert abs(float(found["reward_gain"])) < 1e-6
    edit = _stage(tmp_path, mini).edit.loss(0)
    assert torch.allclose(found["loss"], edit["loss"] + 0.5 * found["reward"])


def test_pieces_of_a_step_are_its_whole(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)
        whole = stage.loss(3)
        halves = [stage.loss(3, Shard(index, 2)) for index in range(2)]
    for name in ("loss", "reward", "reward_gain"):
        mean = (halves[0][name] + halves[1][name]) / 2
        assert torch.allclose(whole[name], mean, atol=1e-5), name


def test_a_step_looks_at_different_drawings_of_each_caption(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    batch, advantage = stage.draw(0, WHOLE)
    captions = stage.settings.judged_captions
    assert len(batch.ids) == captions == 8 and len(batch.t) == len(advantage) == captions * 2
    first, second = batch.z0.reshape(captions, 2, -1).unbind(1)
    assert bool((first != second).any(1).all())
    again = stage.draw(0, WHOLE)[0]
    assert torch.equal(batch.z, again.z) and not torch.equal(batch.z, stage.draw(1, WHOLE)[0].z)


def test_the_model_knows_the_tasks_it_knew_and_those_it_was_taught(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, generate=0.5, inpaint=0.5, edit=0.0, super_resolve=0.0)
    stage.write(tmp_path / "out", stage.network)
    found = read_checkpoint(tmp_path / "out")
    assert found.spec.tasks == ("generate", "inpaint") and found.stages == ("vae", "flow", "reward")


@pytest.mark.usefixtures("odd_is_right")
def test_reward_trains_a_flow_and_resumes_on_the_same_drawings(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = mini.random_checkpoint(tmp_path / "init")
    student = mini.random_checkpoint(tmp_path / "student", folded=True)
    request = mini.request(tmp_path / "run", "reward", steps=2, init=str(init), teacher=str(student))
    run_stage(request)
    folder = tmp_path / "run" / "reward"
    assert read_checkpoint(folder / "checkpoint").stages == ("vae", "flow", "edit", "reward")
    last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert last["reward"] > 0.0 and "reward_gain" in last and "generate" in last
    monkeypatch.setattr(judged_samples, "_drawn", None)  # nothing is drawn again
    run_stage(replace(request, steps=3, resume=True))
    whole = replace(request, steps=3, out=tmp_path / "whole")
    (tmp_path / "whole" / "reward").mkdir(parents=True)
    (folder / "judged.safetensors").rename(tmp_path / "whole" / "reward" / "judged.safetensors")
    run_stage(whole)
    one, other = (read_checkpoint(tmp_path / name / "reward" / "checkpoint") for name in ("run", "whole"))
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.usefixtures("odd_is_right")
def test_drawing_goes_on_where_it_was_killed_and_starts_anew_for_another_drawer(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewardSettings(**mini.FLOW, judged=2 * (PART + 2), group=2, drawing_steps=1)
    drawn: list[int] = []
    real, kill_at = judged_samples._drawn, [1]

    def counting(pipeline: Any, prompts: Sequence[Prompt], *rest: Any) -> Judged:
        if len(drawn) in kill_at:
            raise RuntimeError("killed")
        drawn.append(len(prompts))
        return real(pipeline, prompts, *rest)

    def load(of: Any = drawer) -> Judged:
        path, loop = tmp_path / "judged.safetensors", LoopSettings()
        return load_or_draw(
            path, judged_prompts(PART + 2, 0), of, settings, loop, (32, 32), Console(quiet=True), ALONE
        )

    monkeypatch.setattr(judged_samples, "_drawn", counting)
    with pytest.raises(RuntimeError, match="killed"):
        load()
    kill_at.clear()
    found = load()
    assert drawn == [PART, 2], "the finished part was not drawn again"
    assert found.right.shape == (PART + 2, 2) and found.right.tolist()[0] == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["init", "judged.safetensors"]
    load(replace(drawer, sha256="another"))
    assert drawn == [PART, 2, PART, 2], "another drawer's drawings are not taken"


def test_reward_refuses_what_it_cannot_learn_from(tmp_path: Path, mini: Any) -> None:
    init = str(mini.random_checkpoint(tmp_path / "init"))
    for options, message in (
        ({"data": "photos", "init": init}, "needs captions that the oracle can judge: --data scenes"),
        ({}, "has no flow yet"),
    ):
        with pytest.raises(ValueError, match=message):
            run_stage(mini.request(tmp_path / "run", "reward", **options))
    for values, message in (
        ({"group": 1}, r"group is 1; allowed: 2 \(draws\) or more"),
        ({"judged": 2, "group": 3}, r"judged is 2; allowed: 3 \(group\) or more"),
        ({"reward": 0.0}, "reward is 0.0; allowed: above 0"),
        ({"drawing_steps": 0}, "drawing_steps is 0; allowed: 1 or more"),
    ):
        with pytest.raises(SpecError, match=message):
            RewardSettings(**{**mini.FLOW, **values})


def test_the_shipped_student_is_known_by_name() -> None:
    assert open_checkpoint("student").spec.sampler.guidance_distilled
    assert not open_checkpoint("pretrained").spec.sampler.guidance_distilled


def test_curriculum_reads_a_reward_phase_with_its_drawer(tmp_path: Path, mini: Any) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'config = "mini"\n[[phase]]\nstage = "reward"\nsize = "64"\ninit = "a"\nteacher = "b"\njudged = 48\n',
        "utf-8",
    )
    phase = read_curriculum(path).phases[0]
    assert phase.head.teacher == "b" and isinstance(phase.settings, RewardSettings)
    assert phase.settings.judged == 48 and phase.name == "1-reward-64"
    path.write_text(
        'config = "mini"\n[[phase]]\nstage = "flow"\nsize = "64"\ninit = "a"\nteacher = "b"\n', "utf-8"
    )
    with pytest.raises(
        SpecError, match="teacher belongs to the stages kd, edit, reward and rewrite, not flow"
    ):
        read_curriculum(path)
