"""The stage reward: samples judged in groups, and a loss that leaves the weights alone without an advantage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SceneSource
from microforge.data.world.scenes import HELD_OUT
from microforge.errors import DataError, SpecError
from microforge.sampling import loss_weight, velocity_target
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.engine.distributed import ALONE
from microforge.training.loop_options import LoopSettings
from microforge.training.losses.terms import weighted_velocity
from microforge.training.runs.curriculum import read_curriculum
from microforge.training.runs.stage_run import run_stage
from microforge.training.runs.starting_weights import open_checkpoint
from microforge.training.settings import RewardSettings
from microforge.training.stages import judged_samples
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowContext, FlowStage
from microforge.training.stages.flow_network import predict
from microforge.training.stages.judged_samples import (
    PART,
    JudgedSamples,
    SamplingPlan,
    advantages,
    judged_prompts,
    load_or_generate,
)
from microforge.training.stages.reward import RewardStage


def _stage(tmp_path: Path, mini: Any, **options: Any) -> RewardStage:
    """A stage with random judged samples: of every prompt the first is correct, the others are not."""
    init = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewardSettings(**{**mini.FLOW, "judged_samples": 24, "samples_per_prompt": 3, **options})
    context, console = FlowContext.open(mini.MINI, init, LoopSettings(), (64, 64)), Console(quiet=True)
    flow = FlowStage(context, settings, SceneSource(), tmp_path / "latents", console, init)
    edit = EditStage(flow, settings, SceneTriples(), init, tmp_path / "triples", console)
    stage = RewardStage(edit, settings, init, init)
    latents = torch.randn(8, 3, *flow.latents.shape[1:]).half()
    correct = torch.tensor([[True, False, False]] * 8)
    stage.samples = JudgedSamples(latents, flow.data.captions[:8, 0].int(), correct)
    stage.advantage = advantages(correct)
    return stage


@pytest.fixture
def odd_is_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle that accepts every second sample: a miniature generates nothing that the real one would accept."""
    count = iter(range(10**6))
    monkeypatch.setattr(judged_samples, "detect", lambda image: None)
    monkeypatch.setattr(
        judged_samples, "judge", lambda prompt, detection: SimpleNamespace(correct=next(count) % 2 == 1)
    )


def test_advantages_are_relative_to_the_prompt_and_cut() -> None:
    correct = torch.tensor([[True, False, True, False], [True] * 4, [False] * 4])
    values = advantages(correct)
    assert values[0].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert not values[1:].any(), "no difference between the samples"
    rare = advantages(torch.tensor([[True] + [False] * 15]))
    assert rare.max() == judged_samples.MAX_ADVANTAGE and -0.3 < float(rare.min()) < 0.0


def test_informative_leaves_out_prompts_that_are_always_or_never_correct() -> None:
    correct = torch.tensor([[True, True], [True, False], [False, False]])
    some = JudgedSamples(
        torch.arange(6.0).reshape(3, 2), torch.tensor([[1], [2], [3]]), correct
    ).informative()
    assert some.ids.tolist() == [[2]] and some.latents.tolist() == [[2.0, 3.0]]
    with pytest.raises(DataError, match="none of 3 prompts has both correct and incorrect samples"):
        JudgedSamples(torch.zeros(3, 2), torch.zeros(3, 1), torch.ones(3, 2, dtype=torch.bool)).informative()


def test_judged_prompts_are_of_seen_compositions_and_the_same_again() -> None:
    prompts = judged_prompts(600, seed=3)
    assert [one.text for one in prompts] == [one.text for one in judged_prompts(600, seed=3)]
    assert {(item.color, item.shape) for one in prompts for item in one.objects}.isdisjoint(HELD_OUT)
    pairs = np.mean([len(one.objects) == 2 for one in prompts])
    assert 0.6 < pairs < 0.85, "mostly scenes of several objects"
    assert any(one.text.startswith("A ") or "backdrop" in one.text for one in prompts), (
        "as training's captions are"
    )


def test_the_loss_is_the_flows_for_correct_samples_and_zero_gradient_without_advantage(
    tmp_path: Path, mini: Any
) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)  # away from the starting weights
        batch, _ = stage.make_batch(0, WHOLE)
        velocity, reference = predict(stage.network, batch)[0], predict(stage.reference, batch)[0]
        weight = loss_weight(batch.t)
        wanted = velocity_target(batch.z0, batch.noise)
        for advantage, target in ((1.0, wanted), (0.0, reference), (-1.0, 2 * reference - wanted)):
            stage.advantage = torch.full((8, 3), advantage)
            terms = stage.loss(0)
            assert torch.allclose(terms["reward"], weighted_velocity(velocity, target, weight), rtol=1e-5)
            gain = weighted_velocity(reference, target, weight) - terms["reward"]
            assert torch.allclose(terms["reward_gain"], gain, atol=1e-5)


def test_the_gain_is_zero_before_the_first_step(tmp_path: Path, mini: Any) -> None:
    terms = _stage(tmp_path, mini, reward=0.5).loss(0)
    assert abs(float(terms["reward_gain"])) < 1e-6
    edit = _stage(tmp_path, mini).edit.loss(0)
    assert torch.allclose(terms["loss"], edit["loss"] + 0.5 * terms["reward"])


def test_pieces_of_a_step_are_its_whole(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        for parameter in stage.network.parameters():
            parameter.mul_(1.05)
        whole = stage.loss(3)
        halves = [stage.loss(3, BatchShard(index, 2)) for index in range(2)]
    for name in ("loss", "reward", "reward_gain"):
        mean = (halves[0][name] + halves[1][name]) / 2
        assert torch.allclose(whole[name], mean, atol=1e-5), name


def test_a_step_uses_different_samples_of_each_prompt(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    batch, advantage = stage.make_batch(0, WHOLE)
    captions = stage.settings.judged_captions
    assert len(batch.ids) == captions == 8 and len(batch.t) == len(advantage) == captions * 2
    first, second = batch.z0.reshape(captions, 2, -1).unbind(1)
    assert bool((first != second).any(1).all())
    again = stage.make_batch(0, WHOLE)[0]
    assert torch.equal(batch.z, again.z) and not torch.equal(batch.z, stage.make_batch(1, WHOLE)[0].z)


def test_the_checkpoint_lists_earlier_tasks_and_those_of_the_stage(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, generate=0.5, inpaint=0.5, edit=0.0, super_resolve=0.0)
    stage.write(tmp_path / "out", stage.network)
    written = read_checkpoint(tmp_path / "out")
    assert written.spec.tasks == ("generate", "inpaint") and written.stages == ("vae", "flow", "reward")


@pytest.mark.usefixtures("odd_is_correct")
def test_reward_trains_a_flow_and_resumes_on_the_same_samples(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = mini.random_checkpoint(tmp_path / "init")
    student = mini.random_checkpoint(tmp_path / "student", distilled=True)
    request = mini.request(tmp_path / "run", "reward", steps=2, init=str(init), teacher=str(student))
    run_stage(request)
    folder = tmp_path / "run" / "reward"
    assert read_checkpoint(folder / "checkpoint").stages == ("vae", "flow", "edit", "reward")
    last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert last["reward"] > 0.0 and "reward_gain" in last and "generate" in last
    monkeypatch.setattr(judged_samples, "_generate_part", None)  # nothing is generated again
    run_stage(mini.changed(request, steps=3, resume=True))
    whole = mini.changed(request, steps=3, out=tmp_path / "whole")
    (tmp_path / "whole" / "reward").mkdir(parents=True)
    (folder / "judged.safetensors").rename(tmp_path / "whole" / "reward" / "judged.safetensors")
    run_stage(whole)
    one, other = (read_checkpoint(tmp_path / name / "reward" / "checkpoint") for name in ("run", "whole"))
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


@pytest.mark.usefixtures("odd_is_correct")
def test_sampling_continues_where_it_was_killed_and_restarts_for_another_generator(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = read_checkpoint(mini.random_checkpoint(tmp_path / "init"))
    settings = RewardSettings(
        **mini.FLOW, judged_samples=2 * (PART + 2), samples_per_prompt=2, sampling_steps=1
    )
    counts: list[int] = []
    real, kill_at = judged_samples._generate_part, [1]

    def counting(pipeline: Any, plan: SamplingPlan, number: int) -> JudgedSamples:
        if len(counts) in kill_at:
            raise RuntimeError("killed")
        part = real(pipeline, plan, number)
        counts.append(len(part.ids))
        return part

    def load(checkpoint: Any = generator) -> JudgedSamples:
        plan = SamplingPlan(judged_prompts(PART + 2, 0), settings, LoopSettings(), (32, 32))
        path = tmp_path / "judged.safetensors"
        return load_or_generate(path, plan, checkpoint, Console(quiet=True), ALONE)

    monkeypatch.setattr(judged_samples, "_generate_part", counting)
    with pytest.raises(RuntimeError, match="killed"):
        load()
    kill_at.clear()
    samples = load()
    assert counts == [PART, 2], "the finished part was not generated again"
    assert samples.correct.shape == (PART + 2, 2) and samples.correct.tolist()[0] == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["init", "judged.safetensors"]
    load(replace(generator, sha256="another"))
    assert counts == [PART, 2, PART, 2], "another generator's samples are not used"


def test_reward_refuses_what_it_cannot_learn_from(tmp_path: Path, mini: Any) -> None:
    init = str(mini.random_checkpoint(tmp_path / "init"))
    for options, message in (
        ({"data": "photos", "init": init}, "needs captions that the oracle can judge: --data scenes"),
        ({}, "has no flow yet"),
    ):
        with pytest.raises(ValueError, match=message):
            run_stage(mini.request(tmp_path / "run", "reward", **options))
    for values, message in (
        ({"samples_per_prompt": 1}, r"samples_per_prompt is 1; allowed: 2 \(noise_samples\) or more"),
        (
            {"judged_samples": 2, "samples_per_prompt": 3},
            r"judged_samples is 2; allowed: 3 \(samples_per_prompt\) or more",
        ),
        ({"reward": 0.0}, "reward is 0.0; allowed: above 0"),
        ({"sampling_steps": 0}, "sampling_steps is 0; allowed: 1 or more"),
    ):
        with pytest.raises(SpecError, match=message):
            RewardSettings(**{**mini.FLOW, **values})


def test_the_shipped_student_is_known_by_name() -> None:
    assert open_checkpoint("student").spec.sampler.guidance_distilled
    assert not open_checkpoint("pretrained").spec.sampler.guidance_distilled


def test_curriculum_reads_a_reward_phase_with_its_generator(tmp_path: Path, mini: Any) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'config = "mini"\n[[phase]]\nstage = "reward"\nsize = "64"\ninit = "a"\nteacher = "b"\njudged_samples = 48\n',
        "utf-8",
    )
    phase = read_curriculum(path).phases[0]
    assert phase.head.teacher == "b" and isinstance(phase.settings, RewardSettings)
    assert phase.settings.judged_samples == 48 and phase.name == "1-reward-64"
    path.write_text(
        'config = "mini"\n[[phase]]\nstage = "flow"\nsize = "64"\ninit = "a"\nteacher = "b"\n', "utf-8"
    )
    with pytest.raises(
        SpecError, match="teacher belongs to the stages kd, edit, reward and rewrite, not to flow"
    ):
        read_curriculum(path)
