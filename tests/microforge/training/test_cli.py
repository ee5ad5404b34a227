"""The command lines of training: few flags, every setting listed with its meaning, one line per mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from microforge.io.console import BAD_INPUT, DONE, exit_code
from microforge.training.cli import app
from microforge.training.distillation.request import distill_notes, distill_request
from microforge.training.runs.request import ALL, STAGE_SETTINGS, stage_notes, train_request
from microforge_export.commands.distill import distill

MOST_OPTIONS = 16


def _options(command: Any) -> list[str]:
    return [item.opts[0] for item in command.params if item.param_type_name == "option"]


def test_both_commands_show_at_most_sixteen_options() -> None:
    distill_app = typer.Typer()
    distill_app.command()(distill)
    for one in (app, distill_app):
        command = typer.main.get_command(one)
        options = [name for name in _options(command) if "completion" not in name]
        assert len({*options, "--help"}) <= MOST_OPTIONS, options


@pytest.mark.parametrize("stage", [*STAGE_SETTINGS, ALL])
def test_every_settings_key_of_a_stage_has_a_meaning(stage: str) -> None:
    notes = stage_notes(stage, "nano")
    assert [note.key for note in notes if not note.meaning] == []
    assert len({note.key for note in notes}) == len(notes)


def test_every_settings_key_of_distill_has_a_meaning() -> None:
    notes = distill_notes("tiny")
    assert [note.key for note in notes if not note.meaning] == []
    assert {"flow_fraction", "on_policy_fraction", "delta_scale", "optimizer.ema"} <= {n.key for n in notes}
    assert {"resume", "force", "minutes", "flip"}.isdisjoint(note.key for note in notes)


@pytest.mark.parametrize("stage", STAGE_SETTINGS)
def test_every_listed_key_can_be_set(stage: str, tmp_path: Path) -> None:
    for note in stage_notes(stage, "nano"):
        if note.default not in ("-", "[]") and note.key not in ("minutes", "steps"):
            train_request(stage, tmp_path, {}, None, [f"{note.key}={note.default.lower()}"])


def test_list_settings_prints_the_keys_of_the_stage_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["vae", "--list-settings", "--config", "tiny", "--json"]) == DONE
    keys = json.loads(capsys.readouterr().out)
    assert keys["crop"]["type"] == "int" and keys["steps"]["default"] == "50000"
    assert "noise_samples" not in keys and "compile" not in keys and "teacher" not in keys


def test_a_curriculum_lists_the_options_of_all_its_phases_alone() -> None:
    keys = {note.key for note in stage_notes(ALL)}
    assert {"compile", "edits", "tokenizer", "seed", "config"} <= keys
    assert keys.isdisjoint({"init", "teacher", "size", "decoder_only", "minutes", "steps", "optimizer.kind"})


def test_values_come_from_the_preset_then_the_file_then_set_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('batch = 8\nsteps = 7\nseed = 4\nbf16 = true\n[optimizer]\nkind = "muon"\nema = 0.5\n')
    flags = {"steps": 9, "resume": True, "bf16": False, "init": None}
    request = train_request("flow", tmp_path, flags, file, ["batch=16", "optimizer.ema=0.25"])
    assert request.settings == {"batch": 16, "steps": 9, "optimizer": {"kind": "muon", "ema": 0.25}}
    assert request.loop.seed == 4 and request.loop.bf16 and request.loop.resume


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["flow", "--out", "x", "--set", "stpes=3"],
            "unknown key 'stpes' (did you mean steps?); allowed: optimizer.learning_rate",
        ),
        (["flow", "--out", "x", "--set", "crop=64"], "crop belongs to the stage vae, not to flow"),
        (["flow", "--out", "x", "--set", "kl=1"], "kl belongs to the stage vae, not to flow"),
        (["vae", "--out", "x", "--set", "keep=1"], "unknown key 'keep'"),
        (["flow", "--out", "x", "--steps", "3", "--set", "steps=4"], "steps is given by a flag and by --set"),
        (
            ["flow", "--out", "x", "--steps", "3", "--set", "minutes=4"],
            "steps and minutes exclude each other",
        ),
        (["flow", "--out", "x", "--settings", "nowhere.toml"], "cannot read the settings nowhere.toml"),
        (["flow", "--out", "x", "--set", "seed=-1"], "seed is -1; allowed: 0 or more"),
        (["flow", "--out", "x", "--set", "threads=0"], "threads is 0; allowed: 1 or more"),
        (
            ["all", "--out", "x", "--set", "batch=4"],
            "batch belongs to a single stage; for all, write it into",
        ),
        (["all", "--out", "x", "--set", "minutes=4"], "minutes belongs to a single stage"),
        (["flow"], "--out is missing"),
        (["paint", "--out", "x"], "'paint' is not one of"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(app, arguments) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("phase = [1]\n", "is a curriculum; run it with mf-train all --settings"),
        ("resume = true\n", "resume does not belong into a file; give --resume"),
        ("stpes = 1\n", "mine.toml has an unknown key 'stpes' .did you mean steps.*; allowed: config"),
        ("crop = 64\n", "crop belongs to the stage vae, not to flow"),
        ('batch = "8"\n', "settings.batch must be int"),
    ],
)
def test_a_bad_settings_file_is_refused_by_its_name_or_key(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        request = train_request("flow", tmp_path, {}, file)
        from microforge.training.runs.plan import stage_settings

        stage_settings("flow", "nano", request.settings, "settings")


def test_distill_reads_the_same_sources_and_refuses_options_of_mf_train(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('flow_fraction = 0.2\ntrue_targets = ["super-resolve"]\ntask_teachers = ["edit=a"]\n')
    flags = {"student_steps": 2, "filter_samples": True, "task_teachers": ["generate=b"]}
    request = distill_request(None, tmp_path, flags, file, ["seed=3", "optimizer.kind=muon"])
    assert request.settings == {"flow_fraction": 0.2, "student_steps": 2, "optimizer": {"kind": "muon"}}
    assert request.options.true_targets == ("super-resolve",) and request.options.filter_samples
    assert request.options.task_teachers == ("generate=b",) and request.loop.seed == 3
    with pytest.raises(ValueError, match="minutes belongs to the command mf-train, not to mf-export distill"):
        distill_request(None, tmp_path, {}, None, ["minutes=3"])
    with pytest.raises(ValueError, match="unknown key 'kl'"):
        distill_request(None, tmp_path, {}, None, ["kl=3"])


@pytest.mark.parametrize("keys", [stage_notes("edit", "tiny"), distill_notes("tiny")])
def test_no_key_is_of_two_groups(keys: Any) -> None:
    assert len({note.key for note in keys}) == len(keys)
