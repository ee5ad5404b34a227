"""Leftovers of killed processes: removed by the next run of the same output, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from microforge.errors import OutputExistsError
from microforge.io.atomic import atomic_bytes, atomic_folder

_KILLED = """
import sys, time
from pathlib import Path
from microforge.io.atomic import atomic_file, atomic_folder
kind, out = sys.argv[1], Path(sys.argv[2])
with (atomic_folder(out, force=True, marker="m") if kind == "folder" else atomic_file(out)) as target:
    if kind == "folder":
        (target / "m").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def _start(kind: str, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, kind, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def _write(out: Path) -> None:
    with atomic_folder(out, marker="m") as folder:
        (folder / "m").write_text("whole")


def test_the_next_build_removes_the_work_folder_of_a_killed_one(tmp_path: Path) -> None:
    _kill(_start("folder", tmp_path / "a.mfb"))
    assert len(list(tmp_path.iterdir())) == 1, "a killed process cannot clean up"
    _write(tmp_path / "b.mfb")
    assert len(list(tmp_path.glob(".a.mfb.*"))) == 1, "another output's leftovers stay"
    _write(tmp_path / "a.mfb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mfb", "b.mfb"]


def test_the_work_folder_of_a_living_build_stays(tmp_path: Path) -> None:
    process = _start("folder", tmp_path / "a.mfb")
    try:
        _write(tmp_path / "a.mfb")
        assert len(list(tmp_path.glob(".a.mfb.*"))) == 1
    finally:
        _kill(process)


def test_hidden_folders_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".a.mfb.abcdefgh" / "new").mkdir(parents=True)
    _write(tmp_path / "a.mfb")
    assert (tmp_path / ".a.mfb.abcdefgh" / "new").is_dir(), "no lock: not ours"


def test_an_output_that_was_taken_away_by_a_killed_build_is_put_back(tmp_path: Path) -> None:
    _write(tmp_path / "a.mfb")
    process = _start("folder", tmp_path / "a.mfb")
    _kill(process)
    work = next(tmp_path.glob(".a.mfb.*"))
    os.replace(tmp_path / "a.mfb", work / "old")  # where a kill between the two renames leaves it
    with pytest.raises(OutputExistsError, match="already exists"):
        _write(tmp_path / "a.mfb")
    assert (tmp_path / "a.mfb" / "m").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mfb"]


def test_the_next_writer_removes_a_partial_file_of_a_killed_one(tmp_path: Path) -> None:
    _kill(_start("file", tmp_path / "a.png"))
    (partial,) = tmp_path.iterdir()
    assert partial.name.endswith(".mf-partial")
    atomic_bytes(tmp_path / "a.png", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_partial_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    process = _start("file", tmp_path / "a.png")
    try:
        atomic_bytes(tmp_path / "a.png", b"1")
        assert len(list(tmp_path.glob(".a.png.*.mf-partial"))) == 1
    finally:
        _kill(process)


@pytest.mark.parametrize("name", [".a.png.01234567.mf-new", ".a.png.0123_xyz/lock.new", ".a.png.0123_xyz"])
def test_what_was_not_locked_yet_is_removed_when_it_is_older_than_a_minute(name: str, tmp_path: Path) -> None:
    if name.endswith("new"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    else:
        (tmp_path / name).mkdir()
    entry = tmp_path / name.split("/")[0]
    atomic_bytes(tmp_path / "a.png", b"1")
    assert entry.exists(), "too young to be sure"
    os.utime(entry, (time.time() - 3600,) * 2)
    atomic_bytes(tmp_path / "a.png", b"2", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
