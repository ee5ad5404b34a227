"""The edit stage: four tasks with shared weights, chosen by the step's number, the source beside the noise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from microforge.checkpoint import read_checkpoint
from microforge.data.edit_examples import SOURCE_TASKS
from microforge.data.pixels import from_uint8, to_uint8
from microforge.data.world.edit_triples import SceneTriples
from microforge.data.world.image_source import SceneSource
from microforge.errors import CheckpointError, SpecError
from microforge.pipeline import MicroForgePipeline
from microforge.streams import StepStream
from microforge.text_encoder import PAD_ID
from microforge.tokenizer import TASK_IDS, PromptTokenizer
from microforge.training.caches import encoded_triples
from microforge.training.engine.batch_shard import WHOLE, BatchShard
from microforge.training.loop_options import DataOptions, LoopSettings
from microforge.training.runs.curriculum import read_curriculum
from microforge.training.runs.memory_estimate import footprint
from microforge.training.runs.plan import StagePlan
from microforge.training.runs.stage_builders import StageInputs, build_stage
from microforge.training.runs.stage_run import estimate_stage, run_stage
from microforge.training.runs.starting_weights import StartingWeights
from microforge.training.settings import EditSettings
from microforge.training.stages import edit
from microforge.training.stages.edit import EditStage
from microforge.training.stages.edit_batches import concatenated, select_captions, task_rows
from microforge.training.stages.flow import FlowContext, FlowStage

EVEN = {"generate": 0.25, "edit": 0.25, "inpaint": 0.25, "super_resolve": 0.25}


def _stage(tmp_path: Path, mini: Any, *, preserves: Any = False, **options: Any) -> EditStage:
    """A stage on random weights, none of them zero; ``preserves`` the generation of those very weights."""
    torch.manual_seed(7)
    pipeline = MicroForgePipeline.from_spec(mini.MINI, PromptTokenizer.load())
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    pipeline.stages = ("vae", "flow")
    pipeline.save_pretrained(tmp_path / "init")
    init = read_checkpoint(tmp_path / "init")
    settings = EditSettings(**{**mini.FLOW, "batch": 8, **options})
    context, console = FlowContext.open(mini.MINI, init, LoopSettings(), (64, 64)), Console(quiet=True)
    flow = FlowStage(context, settings, SceneSource(), tmp_path / "latents", console, init)
    reference = init if preserves else None
    return EditStage(flow, settings, SceneTriples(), init, tmp_path / "triples", console, reference)


def test_edit_settings_refuse_shares_that_are_no_mix(mini: Any) -> None:
    with pytest.raises(SpecError, match=r"the shares of the tasks sum to 1\.2; they must sum to 1"):
        EditSettings(**mini.FLOW, generate=0.6)
    with pytest.raises(SpecError, match=r"drop_text is 1\.5; allowed: 0 to 1"):
        EditSettings(**mini.FLOW, drop_text=1.5)
    with pytest.raises(SpecError, match="sum to more than 1"):
        EditSettings(**mini.FLOW, drop_text=0.6, drop_both=0.6)


def test_edit_batches_hold_the_mix_on_average_and_to_a_row_at_each_step(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini)
    mixes = [task_rows(stage.settings, 0, step, WHOLE) for step in range(400)]
    counts = {task: [len(mix[task].places) if task in mix else 0 for mix in mixes] for task in TASK_IDS}
    for task, share in stage.settings.shares.items():
        assert max(abs(count - 8 * share) for count in counts[task]) < 1.0
        assert np.mean(counts[task]) / 8 == pytest.approx(share, abs=0.01)


def test_edit_rows_have_their_tasks_prefix_and_a_source_unless_they_generate(
    tmp_path: Path, mini: Any
) -> None:
    parts = _stage(tmp_path, mini, **EVEN).make_batches(0, WHOLE)
    assert set(parts) == {"generate", *SOURCE_TASKS}
    for task, part in parts.items():
        assert bool((part.ids[:, 1] == TASK_IDS[task]).all())
        assert (part.source is None) == (task == "generate")
        assert part.z0.shape == part.noise.shape == (4, 4, 2, 2) or part.z0.shape[0] == 4


def test_edit_latents_are_those_of_the_targets_and_of_the_clean_sources(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, drop_source=0.0, drop_both=0.0, **EVEN)
    part, count = stage.make_batches(3, WHOLE)["edit"], stage.settings.noise_samples
    examples = SceneTriples().triples("edit", 0, 3, 2, range(2), (64, 64), "cpu")
    vae = stage.context.encoder.vae
    with torch.no_grad():
        wanted = [
            vae.normalize(vae.encode(from_uint8(to_uint8(images))).mean)
            for images in (examples.targets, examples.sources)
        ]
    assert torch.allclose(part.z0, wanted[0].repeat_interleave(count, 0), atol=1e-5)
    assert part.source is not None
    assert torch.allclose(part.source, wanted[1].repeat_interleave(count, 0), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "no_text", "no_source"),
    [("drop_text", True, False), ("drop_source", False, True), ("drop_both", True, True)],
)
def test_edit_drops_prompt_and_source_as_the_settings_say(
    tmp_path: Path, mini: Any, name: str, no_text: bool, no_source: bool
) -> None:
    drops = {**dict.fromkeys(("drop_text", "drop_source", "drop_both"), 0.0), name: 1.0}
    part = _stage(tmp_path, mini, **EVEN, **drops).make_batches(0, WHOLE)["edit"]
    assert part.source is not None
    assert bool(((part.ids != PAD_ID).sum(1) == 3).all()) == no_text
    assert bool((part.source == 0).all()) == no_source


@pytest.mark.parametrize("pieces", [2, 4])
def test_edit_loss_of_a_batch_is_the_mean_over_its_pieces(tmp_path: Path, mini: Any, pieces: int) -> None:
    stage = _stage(tmp_path, mini)
    with torch.no_grad():
        whole = stage.loss(1, WHOLE)
        parts = [stage.loss(1, BatchShard(index, pieces)) for index in range(pieces)]
    assert set(whole) == {
        "loss", "flow", "plan_similarity", "generate", "edit", "inpaint", "super_resolve",
    }  # fmt: skip
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        assert torch.allclose(mean, value, rtol=1e-4, atol=1e-5), name
    shares = stage.settings.shares
    tasks = sum(share * float(whole[name.replace("-", "_")]) for name, share in shares.items())
    assert float(whole["flow"]) == pytest.approx(tasks, rel=1e-4)


@pytest.mark.parametrize("pieces", [1, 2])
def test_edit_with_encoded_triples_uses_them_alone(tmp_path: Path, mini: Any, pieces: int) -> None:
    drops = dict.fromkeys(("drop_text", "drop_source", "drop_both"), 0.0)
    stage = _stage(tmp_path, mini, triples=9, **EVEN, **drops)
    assert {task: len(cache.ids) for task, cache in stage.encoded.items()} == dict.fromkeys(SOURCE_TASKS, 3)
    for index in range(pieces):
        for task, part in stage.make_batches(5, BatchShard(index, pieces)).items():
            if task == "generate":
                continue
            cache, length = stage.encoded[task], part.ids.shape[1]
            known = [
                (cache.targets[row].float(), cache.sources[row].float(), cache.ids[row, :length])
                for row in range(3)
            ]
            assert part.source is not None
            rows = zip(
                part.z0[:: part.noise_samples], part.source[:: part.noise_samples], part.ids, strict=True
            )
            for row in rows:
                assert any(all(torch.equal(*pair) for pair in zip(row, one, strict=True)) for one in known)


def test_edit_pieces_of_a_batch_out_of_encoded_triples_are_rows_of_the_whole(
    tmp_path: Path, mini: Any
) -> None:
    stage = _stage(tmp_path, mini, triples=30)
    with torch.no_grad():
        whole = stage.loss(2, WHOLE)
        parts = [stage.loss(2, BatchShard(index, 2)) for index in range(2)]
    for name, value in whole.items():
        assert torch.allclose(
            torch.stack([part[name] for part in parts]).mean(), value, rtol=1e-4, atol=1e-5
        ), name


def test_encoded_triples_are_those_of_the_source_and_are_reused(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_triples, "PART", 2)
    monkeypatch.setattr(encoded_triples, "BATCH", 2)
    stage = _stage(tmp_path, mini, triples=9)
    examples = SceneTriples().triples(
        "edit", 0, StepStream.ENCODED_TRIPLES + 1, 2, range(2), (64, 64), "cpu"
    )  # of the second batch
    wanted = stage.context.encoder.latents(to_uint8(examples.sources))
    assert torch.allclose(stage.encoded["edit"].sources[2:4].float(), wanted, atol=2e-3)
    written = (tmp_path / "triples").stat().st_mtime_ns
    again = _stage(tmp_path, mini, triples=9)
    assert (tmp_path / "triples").stat().st_mtime_ns == written
    assert torch.equal(again.encoded["inpaint"].ids, stage.encoded["inpaint"].ids)
    more = _stage(tmp_path, mini, triples=12)
    assert (tmp_path / "triples").stat().st_mtime_ns != written and len(more.encoded["edit"].ids) > len(
        stage.encoded["edit"].ids
    )


def test_encoded_triples_continue_with_the_parts_of_a_killed_build(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoded_triples, "PART", 2)
    whole = _stage(tmp_path, mini, triples=9).encoded
    (tmp_path / "triples").unlink()
    calls: list[int] = []
    build = encoded_triples._encode_part

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return build(*arguments)

    monkeypatch.setattr(encoded_triples, "_encode_part", killed)
    with pytest.raises(KeyboardInterrupt):
        _stage(tmp_path, mini, triples=9)
    again = _stage(tmp_path, mini, triples=9).encoded
    assert len(calls) == 1 + sum(-(-len(cache.ids) // 2) for cache in whole.values())
    for task, cache in whole.items():
        assert torch.equal(cache.sources, again[task].sources)
        assert torch.equal(cache.ids, again[task].ids)


def test_edit_that_preserves_generation_starts_without_a_loss_of_it(tmp_path: Path, mini: Any) -> None:
    stage = _stage(tmp_path, mini, preserves=True)
    with torch.no_grad():
        terms = stage.loss(0)
        assert float(terms["generate"]) == pytest.approx(0.0, abs=1e-9) and float(terms["edit"]) > 0.01
        for parameter in stage.network.parameters():
            parameter.mul_(1.1)
        assert float(stage.loss(0)["generate"]) > 1e-4


def test_edit_with_a_teacher_preserves_the_teachers_generation(tmp_path: Path, mini: Any) -> None:
    _stage(tmp_path, mini)
    init = read_checkpoint(tmp_path / "init")
    other = replace(init, tensors={name: 1.1 * value for name, value in init.tensors.items()})
    settings = EditSettings(**{**mini.FLOW, "batch": 8})
    losses = {}
    for name, teacher in (("data", None), ("init", init), ("other", other)):
        weights = StartingWeights(init, init, teacher)
        plan = _plan(tmp_path / "run", mini, settings)
        stage = build_stage(StageInputs(plan, weights, SceneSource(), Console(quiet=True)))
        with torch.no_grad():
            losses[name] = float(stage.loss(0, WHOLE)["generate"])
    assert losses["init"] == pytest.approx(0.0, abs=1e-9) and losses["data"] > losses["other"] > 1e-4


def _plan(folder: Path, mini: Any, settings: EditSettings) -> StagePlan:
    return StagePlan(
        stage="edit",
        name="edit",
        folder=folder,
        spec=mini.MINI,
        settings=settings,
        loop=LoopSettings(),
        size=(64, 64),
        data=DataOptions(),
    )


def test_edit_dry_run_counts_the_weights_that_preserve_generation(mini: Any) -> None:
    bytes_of = []
    for preserve in (False, True):
        settings = EditSettings(**{**mini.FLOW, "batch": 8}, preserve_generation=preserve)
        bytes_of.append(footprint(_plan(Path("run"), mini, settings)).state)
    assert bytes_of[1] > bytes_of[0]


def test_edit_refuses_a_negative_number_of_triples(mini: Any) -> None:
    with pytest.raises(SpecError, match=r"triples is -1; allowed: 0 or more"):
        EditSettings(**mini.FLOW, triples=-1)


def test_edit_refuses_a_batch_that_does_not_divide(tmp_path: Path, mini: Any) -> None:
    with pytest.raises(SpecError, match="a batch of 8 does not divide into 3 pieces"):
        _stage(tmp_path, mini).make_batches(0, BatchShard(0, 3))


def test_edit_without_a_task_trains_and_logs_the_others(tmp_path: Path, mini: Any) -> None:
    shares = {"generate": 0.5, "edit": 0.5, "inpaint": 0.0, "super_resolve": 0.0}
    terms = _stage(tmp_path, mini, **shares).loss(0)
    assert "inpaint" not in terms and float(terms["edit"].detach()) > 0


def test_selected_and_concatenated_captions_are_the_batch(tmp_path: Path, mini: Any) -> None:
    whole = _stage(tmp_path, mini).flow.make_batch(0, WHOLE)
    back = concatenated([select_captions(whole, range(3)), select_captions(whole, range(3, 8))])
    for name in ("z0", "noise", "t", "has_plan"):
        assert torch.equal(getattr(back, name), getattr(whole, name))
    assert (
        torch.equal(back.ids, whole.ids[:, : back.ids.shape[1]])
        and not whole.ids[:, back.ids.shape[1] :].any()
    )


def test_edit_adds_no_parameter_and_is_recorded_in_the_checkpoint(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit, "SHEET_EXAMPLES", 1)
    monkeypatch.setattr(edit, "SHEET_PROMPTS", 1)
    _stage(tmp_path, mini)
    (tmp_path / "flow").mkdir()
    (tmp_path / "init").rename(tmp_path / "flow" / "checkpoint")
    run_stage(mini.request(tmp_path, "edit", steps=1))  # starts from RUN/flow
    trained, was = (read_checkpoint(tmp_path / name / "checkpoint") for name in ("edit", "flow"))
    assert trained.stages == ("vae", "flow", "edit")
    assert {name: value.shape for name, value in trained.tensors.items()} == {
        name: value.shape for name, value in was.tensors.items()
    }
    assert all(torch.allclose(trained.tensors[name], value, atol=2e-3) for name, value in was.tensors.items())
    row = json.loads((tmp_path / "edit" / "log.jsonl").read_text("utf-8").splitlines()[-1])
    assert {"generate", "edit", "inpaint", "super_resolve"} <= set(row)
    assert (tmp_path / "edit" / "samples" / "0000001.png").is_file()


def test_edit_resumed_is_bit_for_bit_the_uninterrupted_run(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit.EditStage, "sheet", lambda self, ema: torch.zeros(3, 8, 8))
    _stage(tmp_path, mini)
    one = mini.request(tmp_path / "one", "edit", steps=4, init=str(tmp_path / "init"))
    run_stage(one)
    two = mini.changed(one, out=tmp_path / "two")
    run_stage(mini.changed(two, steps=2))
    run_stage(mini.changed(two, resume=True))
    first, second = (read_checkpoint(tmp_path / name / "edit" / "checkpoint") for name in ("one", "two"))
    assert all(torch.equal(second.tensors[name], value) for name, value in first.tensors.items())


def test_edit_needs_a_flow_to_start_from(tmp_path: Path, mini: Any) -> None:
    run_stage(mini.request(tmp_path, steps=1))
    with pytest.raises(CheckpointError, match="has no flow yet: run mf-train flow --config mini"):
        run_stage(mini.request(tmp_path, "edit"))


def test_curriculum_refuses_an_edit_phase_before_any_flow(tmp_path: Path, mini: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'config = "mini"\n[[phase]]\nstage = "vae"\nsize = "64"\n[[phase]]\nstage = "edit"\nsize = "64"\n',
        "utf-8",
    )
    with pytest.raises(SpecError, match=r"phase\[1\] needs the weights of a flow"):
        read_curriculum(path)


def test_edit_learns_from_a_folder_of_triples_and_reports_what_it_skipped(
    tmp_path: Path, mini: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit.EditStage, "sheet", lambda self, ema: torch.zeros(3, 8, 8))
    _stage(tmp_path, mini)
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64)).save(folder / name)
    rows = [{"source": "a.png", "instruction": "brighter", "target": name} for name in ("b.png", "gone.png")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    request = mini.request(tmp_path / "run", "edit", steps=1, init=str(tmp_path / "init"), edits=str(folder))
    run_stage(request)
    assert "gone.png" in (tmp_path / "run" / "edit" / "skipped.txt").read_text("utf-8")


def test_edits_option_belongs_to_the_stage_edit_and_own_images_need_it(tmp_path: Path, mini: Any) -> None:
    with pytest.raises(SpecError, match="edits belongs to the stage edit, not to flow"):
        run_stage(mini.request(tmp_path, "flow", edits="mine"))
    with pytest.raises(SpecError, match="with --data of your own needs --set edits=FOLDER"):
        run_stage(mini.request(tmp_path, "edit", data=str(tmp_path)))


def test_edit_dry_run_counts_the_tokens_of_the_source(tmp_path: Path, mini: Any) -> None:
    flow, edit = (estimate_stage(mini.request(tmp_path, stage)).footprint for stage in ("flow", "edit"))
    assert edit.sample > flow.sample and not list(tmp_path.iterdir())
