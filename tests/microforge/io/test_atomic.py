"""Outputs appear whole or not at all, keep the user's umask, and say in one line that a disk is full."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from microforge.errors import OutputError, OutputExistsError
from microforge.io import atomic
from microforge.io.atomic import atomic_bytes, atomic_folder, atomic_path
from microforge.io.disk_failure import disk_failure
from microforge.io.swap import swap_names

FULL = os.strerror(errno.ENOSPC)


def _write(out: Path, text: str) -> None:
    with atomic_folder(out, force=True, marker="m") as folder:
        (folder / "m").write_text(text)


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_replaces_the_old_one_with_and_without_an_exchange_in_one_step(
    swaps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swaps:
        monkeypatch.setattr(atomic, "swap_names", lambda first, second: False)
    for text in ("old", "new"):
        _write(tmp_path / "a", text)
        assert (tmp_path / "a" / "m").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_swap_exchanges_two_folders_or_says_that_the_system_cannot(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    done = swap_names(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / ("b" if done else "a")).exists()
    assert not swap_names(tmp_path / "a", tmp_path / "missing")


def test_a_library_that_writes_by_name_leaves_a_whole_file_or_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "a.bin"
    with atomic_path(out) as path:
        path.write_bytes(b"old")
        path.chmod(0o600)
    assert out.read_bytes() == b"old" and stat.S_IMODE(out.stat().st_mode) == 0o666 & ~_umask()
    with pytest.raises(OutputExistsError), atomic_path(out):
        pass
    with pytest.raises(KeyError), atomic_path(out, force=True) as path:
        path.write_bytes(b"half")
        raise KeyError
    assert out.read_bytes() == b"old" and [item.name for item in tmp_path.iterdir()] == ["a.bin"]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, FULL), RuntimeError(f"I/O error: {FULL} (os error 28)"), OSError([("a", "b", f"[Errno 28] {FULL}")])],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["folder", "path"])
def test_a_full_disk_is_one_error_that_names_the_output_and_keeps_the_old_one(
    error: Exception, kind: str, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    if kind == "folder":
        _write(out, "old")
    else:
        atomic_bytes(out, b"old")
    opened = atomic_folder(out, force=True, marker="m") if kind == "folder" else atomic_path(out, force=True)
    with pytest.raises(OutputError, match=f"^cannot write {out}: {FULL}$"), opened:
        raise error
    assert ((out / "m") if kind == "folder" else out).read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [ValueError("a wrong value"), OSError(errno.ENOENT, "No such file")])
def test_other_errors_are_no_failures_of_the_disk(error: Exception) -> None:
    assert disk_failure(error) is None


def test_files_written_by_many_threads_keep_the_umask(tmp_path: Path) -> None:
    before = _umask()

    def write(number: int) -> None:
        for index in range(20):
            atomic_bytes(tmp_path / f"{number}-{index}", b"1")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~before} and _umask() == before
