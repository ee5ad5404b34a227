"""``mf-eval --task``: scores with their ceilings, a sheet of source, result and target, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from microforge.data.world.edit_triples import SceneTriples
from microforge.evaluation.edit_contact_sheet import MAX_EXAMPLES, ExampleCollector, triple_sheet
from microforge.evaluation.editing import TaskEvaluation, evaluate_task
from microforge.io.console import exit_code
from microforge.pipeline import MicroForgePipeline
from microforge.spec import TASKS, SamplerSpec, preset
from microforge.tokenizer import PromptTokenizer
from microforge.training.stages.example_images import generate_examples
from microforge_benchmarks.eval_cli import app
from microforge_benchmarks.evaluate.model_under_test import SamplingOptions
from microforge_benchmarks.evaluate.open_model import open_model_under_test


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with random weights that knows all four tasks, on a two-step grid."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    torch.manual_seed(0)
    sampler = SamplerSpec(timesteps=(1.0, 0.5, 0.0))
    spec = replace(preset("nano"), sampler=sampler, tasks=TASKS)
    pipeline = MicroForgePipeline.from_spec(spec, PromptTokenizer.load())
    torch.nn.init.normal_(
        pipeline.backbone.head.weight, std=0.1
    )  # zero at first: the result would be the noise
    pipeline.save_pretrained(folder)
    return folder


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


@pytest.mark.parametrize("task", ["edit", "inpaint", "super-resolve"])
def test_a_task_is_scored_with_its_ceilings_and_a_sheet(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    out = tmp_path / "scores.json"
    assert _run(checkpoint, "--task", task, "--prompts", 6, "--size", 64, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    written, printed = json.loads(out.read_text()), json.loads(captured.out.splitlines()[-1])
    assert printed["scores"] == written["scores"] and written["task"] == task and written["examples"] == 6
    scores, ceiling = written["scores"], written["ceilings"]["true_targets"]
    if task == "edit":
        assert scores["followed"]["total"] == 6 and ceiling["followed"]["accuracy"] > 0.8
        assert scores["psnr_db"]["outside"] < ceiling["psnr_db"]["outside"] == 100.0
        assert written["ceilings"]["vae_round_trip"]["psnr_db"]["outside"] < 100.0
    elif task == "inpaint":
        assert scores["preserved_exactly"] and ceiling["completed"]["accuracy"] > 0.8
        assert list(written["ceilings"]) == ["true_targets"]
    else:
        assert scores["gain_db"] < ceiling["gain_db"] and set(written["ceilings"]) == {
            "true_targets",
            "vae_round_trip",
        }
    assert "true targets" in captured.err
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.width > 3 * 3 * 128 and len(sheet.convert("L").getcolors(1 << 24) or ()) > 20


def test_a_bundle_is_scored_through_its_runtime(editing_bundle: Path, tmp_path: Path) -> None:
    for task in ("edit", "inpaint", "super-resolve"):
        out = tmp_path / f"{task}.json"
        assert _run(editing_bundle, "--task", task, "--prompts", 3, "--seed", 5, "--out", out) == 0
        written = json.loads(out.read_text())
        assert written["kind"] == "bundle" and written["size"] == [64, 96] and written["seed"] == 5
    assert json.loads((tmp_path / "inpaint.json").read_text())["scores"]["preserved_exactly"]


@pytest.mark.parametrize("kind", ["checkpoint", "editing_bundle"])
def test_masked_edits_preserve_all_pixels_outside_the_mask(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    out, model = tmp_path / "edit.json", request.getfixturevalue(kind)
    assert _run(model, "--task", "edit", "--prompts", 6, "--masked", "--out", out) == 0
    written = json.loads(out.read_text())
    levels = written["scores"]["psnr_db"]
    assert written["masked"] and levels["outside"] == levels["outside_composited"] > 15.0, (
        "the mask is applied while sampling"
    )


def test_a_checkpoint_generates_the_images_of_the_training_stage(checkpoint: Path) -> None:
    model = open_model_under_test(checkpoint, SamplingOptions(size="64"))
    examples = SceneTriples().triples("edit", 0, 0, 2, range(2), (64, 64), "cpu")
    assert model.generate_task is not None
    expected = generate_examples(MicroForgePipeline.from_pretrained(checkpoint), "edit", examples, 7)
    assert torch.equal(model.generate_task("edit", examples, 7), expected)
    other = open_model_under_test(checkpoint, SamplingOptions(size="64", steps=1, guidance=1.0)).generate_task
    assert other is not None and not torch.equal(other("edit", examples, 7), expected), (
        "steps and guidance count"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "paint"), "--task is 'paint'; allowed: generate, edit, inpaint, super-resolve"),
        (("--task", "edit", "--single-object"), "--single-object belongs to --task generate"),
        (("--task", "inpaint", "--masked"), "--masked belongs to --task edit, not to inpaint"),
        (("--masked",), "--masked belongs to --task edit, not to generate"),
        (("--task", "edit"), "this bundle cannot edit; its tasks: generate"),
    ],
)
def test_a_task_that_cannot_be_judged_is_one_line(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert _run(bundle, *words, "--out", tmp_path / "s.json") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_sheet_shows_marks_and_stays_small() -> None:
    collector = ExampleCollector(2 * MAX_EXAMPLES)
    run = TaskEvaluation(2, (64, 64), on_batch=collector.add_batch)
    evaluate_task("super-resolve", lambda examples, seed: examples.targets, run)
    [example] = collector.examples
    assert example.verdict.correct and "bicubic" in example.verdict.text
    sheet = np.asarray(triple_sheet([example]))
    green, red = (sheet == color for color in ((20, 140, 50), (205, 30, 40)))
    assert green.all(2).sum() > 400 and not red.all(2).any()
    assert triple_sheet(collector.examples * MAX_EXAMPLES).height < 6000
