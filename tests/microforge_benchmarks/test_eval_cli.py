"""mf-eval on a random checkpoint and on a miniature bundle: files, scores and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from microforge.data.world.captions import evaluation_prompts
from microforge.errors import BundleError
from microforge.evaluation.classifier import load_classifier
from microforge.evaluation.contact_sheet import MAX_IMAGES, contact_sheet, sheet_stride
from microforge.evaluation.generation import evaluate_prompts, true_renders, without_image
from microforge.io.console import exit_code
from microforge.pipeline import MicroForgePipeline
from microforge.spec import SamplerSpec, preset
from microforge.tokenizer import PromptTokenizer
from microforge_benchmarks.eval_cli import app
from microforge_benchmarks.evaluate import bundle_model
from microforge_benchmarks.evaluate.model_under_test import SamplingOptions
from microforge_benchmarks.evaluate.open_model import open_model_under_test
from microforge_runtimes.editor import Editor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano with random weights, none of them zero, and a two-step grid."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    torch.manual_seed(0)
    sampler = replace(SamplerSpec(), timesteps=(1.0, 0.5, 0.0))
    pipeline = MicroForgePipeline.from_spec(replace(preset("nano"), sampler=sampler))
    for parameter in pipeline.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    pipeline.save_pretrained(folder)
    PromptTokenizer.load().save(folder / "tokenizer.json")
    return folder


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


def test_a_checkpoint_is_scored_with_its_ceilings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "scores.json"
    assert _run(checkpoint, "--prompts", 24, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    printed, written = json.loads(captured.out.splitlines()[-1]), json.loads(out.read_text())
    assert printed["scores"] == written["scores"] and "images" not in printed
    assert written["kind"] == "checkpoint" and written["steps"] == 2 and written["size"] == [160, 160]
    assert written["scores"]["overall"]["total"] == len(written["images"]) == 24
    assert written["ceilings"]["true_renders"]["overall"]["accuracy"] == 1.0
    assert written["ceilings"]["vae_round_trip"]["overall"]["total"] == 24
    assert 0 < written["vae"]["psnr_db"] < 30 and written["vae"]["ssim"] < 1
    assert set(written["scores"]["split"]) == {"seen", "held_out"}
    _check_kid(written["kid"], load_classifier().identity)
    assert written["planner"]["prompts"] == 16
    assert 0 < written["planner"]["self_conditioning_change"] < 1 > written["planner"]["mean_cosine"] > -1
    assert {"prompt", "category", "seed", "correct", "shape", "reason"} <= set(written["images"][0])
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.width > 1000
    for line in ("overall", "KID x 1000", "plan cosine", "plan memory"):
        assert line in captured.err


def _check_kid(report: dict[str, Any], classifier: str) -> None:
    """Noise is far from true renders, blurred renders are nearer, and other true renders are at zero."""
    assert report["features"] == f"classifier {classifier}" and report["subsets"] == 10
    floor, copies = report["floor"], report["vae_round_trip"]
    assert abs(floor["value"]) < 3 * floor["stderr"]
    assert report["value"] > 3 * report["stderr"] > 0 and report["value"] > floor["value"]
    assert copies["value"] > floor["value"] + 3 * copies["stderr"]


def test_a_bundle_is_scored_through_its_runtime(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert _run(bundle, "--prompts", 5, "--single-object", "--seed", 3, "--out", out) == 0
    written = json.loads(out.read_text())
    assert written["kind"] == "bundle" and written["size"] == [64, 96] and written["vae"] is None
    assert written["planner"] is None and written["kid"]["vae_round_trip"] is None
    assert written["kid"]["subsets"] == 2 and written["kid"]["value"] > written["kid"]["floor"]["value"]
    assert written["prompt_set"] == "single object" and list(written["ceilings"]) == ["true_renders"]
    assert [image["seed"] for image in written["images"]] == [3, 4, 5, 6, 7]


def test_the_engine_of_a_bundle_can_be_chosen(bundle: Path) -> None:
    assert (
        open_model_under_test(bundle, SamplingOptions(target="onnx")).identity
        == open_model_under_test(bundle, SamplingOptions()).identity
    )
    with pytest.raises(BundleError, match="has no target 'coreml'; it has: onnx"):
        open_model_under_test(bundle, SamplingOptions(target="coreml"))


def test_a_bundle_with_an_encoder_has_a_round_trip(
    editing_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Echo:
        """Both halves of a perfect VAE; refuses batches, as a static graph does."""

        def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
            [tensor] = inputs.values()
            assert tensor.shape == (1, 3, 64, 64)
            return {"latent": tensor, "image": tensor}

    monkeypatch.setattr(bundle_model, "open_session", lambda *_: Echo())
    round_trip = bundle_model.bundle_round_trip(Editor(editing_bundle))
    images = torch.rand(3, 3, 64, 64)
    assert torch.equal(round_trip(images), images)


def test_images_do_not_depend_on_the_batch(checkpoint: Path) -> None:
    model = open_model_under_test(checkpoint, SamplingOptions(size="64x96", steps=1, guidance=1.0))
    prompts = evaluation_prompts(3, 0)
    together = model.generate(prompts, 10)
    assert together.shape == (3, 64, 96, 3)
    alone = model.generate(prompts[2:], 12)
    assert int(abs(together[2].astype(int) - alone[0].astype(int)).max()) <= 1


def test_nothing_is_replaced_without_force(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "scores.png").write_bytes(b"old")
    words = (checkpoint, "--prompts", 1, "--size", 64, "--out", tmp_path / "scores.json")
    assert _run(*words) == 2 and (tmp_path / "scores.png").read_bytes() == b"old"
    assert not (tmp_path / "scores.json").exists()
    assert _run(*words, "--force") == 0 and (tmp_path / "scores.png").read_bytes() != b"old"
    assert json.loads((tmp_path / "scores.json").read_text())["kid"] is None, "one image has no distance"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing", "--out", "s.json"), "no such checkpoint folder"),
        (("CHECKPOINT", "--out", "s.txt"), "ends in .json"),
        (("CHECKPOINT", "--out", "s.json", "--size", "100"), "multiple of 32"),
        (("CHECKPOINT", "--out", "s.json", "--size", "32"), "at least 64 px"),
        (("CHECKPOINT", "--out", "s.json", "--prompts", "0"), "prompts"),
        (("CHECKPOINT", "--out", "s.json", "--guidance", "nan"), "guidance"),
        (("CHECKPOINT", "--out", "s.json", "--target", "onnx"), "--target is for bundles"),
        (("BUNDLE", "--out", "s.json", "--guidance", "2"), "part of its manifest"),
        (("BUNDLE", "--out", "s.json", "--steps", "3"), "3"),
        (("BUNDLE", "--out", "s.json", "--size", "128"), "no size 128x128"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    words: tuple[str, ...], message: str, checkpoint: Path, bundle: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    named = {"CHECKPOINT": checkpoint, "BUNDLE": bundle}
    assert _run(*(named.get(word, word) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_without_a_tokenizer_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(checkpoint / name)
    assert _run(tmp_path, "--out", tmp_path / "s.json") == 2
    assert "tokenizer.json" in capsys.readouterr().err


def test_the_contact_sheet_stays_small() -> None:
    prompts = evaluation_prompts(MAX_IMAGES + 1, 0)
    results = list(evaluate_prompts(true_renders(64, 64), prompts))
    assert contact_sheet(results).size == contact_sheet(results[:61]).size
    assert contact_sheet(results[:1]).width < 200
    every = sheet_stride(len(results))
    assert every == 2
    needed = [one if i % every == 0 else without_image(one) for i, one in enumerate(results)]
    assert contact_sheet(needed).tobytes() == contact_sheet(results).tobytes(), (
        "the others' pixels are not read"
    )


def test_judged_images_do_not_hold_their_batch_in_memory() -> None:
    shapes: list[tuple[int, ...]] = []
    prompts = evaluation_prompts(5, 0)
    results = list(
        evaluate_prompts(
            true_renders(64, 96), prompts, batch=2, on_batch=lambda images: shapes.append(images.shape)
        )
    )
    assert shapes == [(2, 64, 96, 3), (2, 64, 96, 3), (1, 64, 96, 3)]
    assert all(one.image.base is None and one.image.shape == (64, 96, 3) for one in results)
    assert without_image(results[0]).image.nbytes == 0


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from microforge.io.console import exit_code; from microforge_benchmarks.eval_cli import app\n"
        "assert exit_code(app, ['--help']) == 0\n"
        "print([name for name in ('torch', 'numpy', 'scipy', 'PIL', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Example: mf-eval" in done.stdout and done.stdout.splitlines()[-1] == "[]"
