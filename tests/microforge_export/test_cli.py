"""``mf-export``: exit codes, one line per error, nothing left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from microforge.io.console import exit_code
from microforge_export.cli import app


def run(*words: str) -> int:
    return exit_code(app, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "fp16"], "onnx precision 'fp16' is not available in this version; available: fp32"),
        (["--target", "tflite"], "target 'tflite' is unknown; available: onnx, executorch, coreml"),
        (["--target", ","], "must name at least one of: onnx, executorch, coreml"),
        (["--precision", "int8"], "no int8 recipe for model 'miniature' on onnx ships with this version"),
        (["--precision", "int8", "--recipe", "none.toml"], "recipe none.toml cannot be read"),
        (["--tasks", "edit"], "this model cannot edit; its tasks: generate, vary"),
        (["--tasks", "paint"], "this model cannot paint; its tasks: generate, vary"),
        (["--tasks", ","], "--tasks must name at least one task, such as generate"),
        (["--size", "100"], "size 100x100 is not a multiple of 32 on both sides; nearest allowed: 96x96"),
        (["--size", "wide"], "size 'wide' is not understood"),
        (["--size", "0"], "size 0x0 is not a multiple of 32"),
        (["--sizes", "64"], "No such option"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_and_exit_2(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run("build", str(checkpoint), "--out", str(tmp_path / "x.mfb"), *words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", str(tmp_path / "none"), "--out", str(tmp_path / "x.mfb")) == 2
    error = capsys.readouterr().err
    assert "no such checkpoint folder" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "keep"), [("model.safetensors", 1000), ("config.json", 40), ("tokenizer.json", 0)]
)
def test_a_damaged_checkpoint_is_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, keep: int
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    (copy / name).write_bytes((copy / name).read_bytes()[:keep])
    assert run("build", str(copy), "--out", str(tmp_path / "x.mfb")) == 2
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1
    assert not (tmp_path / "x.mfb").exists()


def test_an_existing_output_needs_force(
    bundle: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bundle / "manifest.json").read_bytes()
    assert run("build", str(checkpoint), "--out", str(bundle)) == 2
    assert "--force" in capsys.readouterr().err
    assert (bundle / "manifest.json").read_bytes() == before


def test_force_does_not_replace_a_folder_that_is_no_bundle(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("precious")
    assert run("build", str(checkpoint), "--out", str(tmp_path / "thesis"), "--force") == 2
    assert (tmp_path / "thesis" / "text").read_text() == "precious"


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "build",
        str(checkpoint),
        "--out",
        "x.mfb",
        "--dry-run",
        "--size",
        "64",
        "--size",
        "64x96",
        "--target",
        "onnx, executorch",
    ]
    assert run(*words, "--json") == 0
    plan = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert plan["sizes"] == ["64x64", "64x96"]
    assert {name: item["thresholds"]["component_psnr_db"] for name, item in plan["targets"].items()} == {
        "onnx": 60, "executorch": 60,
    }  # fmt: skip
    z = plan["components"]["denoiser_64x96"]["inputs"][0]
    assert (z["name"], z["shape"], z["dtype"]) == ("z", [1, 4, 2, 3], "float32")
    alone = {key: item["predicted_bytes"] for key, item in plan["components"].items()}
    assert plan["predicted_bytes"] == sum(alone[key] for key in alone if "64x96" not in key), (
        "weights counted once"
    )
    assert run(*words) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_build_ends_with_one_json_object_on_stdout(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.mfb"
    shutil.copytree(bundle, out)
    assert run("build", str(checkpoint), "--out", str(out), "--size", "32x64", "--json", "--force") == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert values["bundle"] == str(out) and values["sizes"] == ["32x64"] and values["seconds"] > 0
    assert "[11/11] verify the result" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.mfb"]


def test_inspect_shows_components_and_json(two_sizes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", str(two_sizes)) == 0
    table = capsys.readouterr().out
    assert "denoiser_64x96" in table and "64x64, 64x96" in table and "MatMul" in table
    assert run("inspect", str(two_sizes), "--json") == 0
    values = json.loads(capsys.readouterr().out)
    target = values["targets"]["onnx"]
    assert target["bytes"] == sum(path.stat().st_size for path in (two_sizes / "onnx").iterdir())
    assert set(values["components"]) == set(target["files"]) == set(target["parity"])


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_is_no_bundle_is_bad_input(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_quick_and_loads_no_torch() -> None:
    code = "import sys\nfrom microforge_export.cli import app\nfrom microforge.io.console import exit_code\nexit_code(app, ['build', '--help'])\nassert 'torch' not in sys.modules"
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Example: mf-export build" in result.stdout
    assert time.perf_counter() - start < 5, "generous: the machine may be busy"


def test_pack_and_unpack_give_the_bundle_back(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, archive, back = (str(tmp_path / name) for name in ("a.mfb", "a.mfb.zip", "b.mfb"))
    assert run("build", str(checkpoint), "--out", folder) == 0
    assert run("pack", folder, "--out", archive) == 0
    assert capsys.readouterr().out.splitlines()[-1] == archive
    for command in ("inspect", "verify", "fit"):
        assert run(command, archive, "--json") == 0, capsys.readouterr().err
    assert run("pack", folder, "--out", archive) == 2 and "--force" in capsys.readouterr().err
    assert run("unpack", archive, "--out", back, "--json") == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    names = [sorted(p.relative_to(f) for p in Path(f).rglob("*") if p.is_file()) for f in (folder, back)]
    assert names[0] == names[1] and values["files"] == len(names[0])


@pytest.mark.parametrize("command", sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    assert f"Example: mf-export {command}" in shown
    if command != "distill":
        assert "range>" not in shown and "[x>=" not in shown, "bounds belong into the sentence, if anywhere"


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--prompts", "many"], ["--threads", "-1"]])
def test_a_count_below_one_is_bad_input(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tune", *words) == 2
    error = capsys.readouterr().err
    assert "is not a whole number of at least 1" in error and error.count("\n") == 1
