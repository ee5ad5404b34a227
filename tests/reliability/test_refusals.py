"""Full disks and read-only folders: one line, exit code 2, and the old output as it was.

``python -m pytest tests/reliability/test_refusals.py -m slow --tries 50`` needs the right to mount a small disk (tmpfs) and to
become another user, as root has them.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.reliability.attacks import Attacks
from tests.reliability.conftest import Report
from tests.reliability.outputs import ABSENT, NEW, OLD

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the rights of root"),
]
_DISK_BYTES = 96 << 20
_NOBODY = 65534


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of ``_DISK_BYTES`` bytes at ``folder``."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


def _used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


@pytest.fixture
def on_disk(attacks: Attacks, tmp_path: Path) -> Iterator[Attacks]:
    """The attacks, with the folder that is written to and the temporary folder on a small disk."""
    disk, places = tmp_path / "disk", (attacks.work, attacks.temporary)
    attacks.restart()
    with _small_disk(disk):
        (disk / "tmp").mkdir()
        attacks.work, attacks.temporary = disk / "work", disk / "tmp"
        yield attacks
    attacks.work, attacks.temporary = places


def test_a_full_disk_is_one_line_and_the_old_output_stays(
    on_disk: Attacks, tries: int, report: Report
) -> None:
    attacks, disk = on_disk, on_disk.work.parent
    needed = {}
    for old in (False, True):
        more, before = attacks.prepare(old), _used(disk)
        assert attacks.run(*more).code == 0
        needed[old] = _used(disk) - before + (before if old else 0)  # the old output lies beside the new one
    random.seed(31)
    filler = disk / "filler"
    for number in range(tries):
        old = bool(number % 2)
        more, room = attacks.prepare(old), int(random.uniform(0, needed[old]))
        filler.write_bytes(bytes(max(shutil.disk_usage(disk).free - room, 0)))
        outcome = attacks.run(*more)
        note = f"try {number}, {room} of {needed[old]} bytes free"
        if outcome.code != 0:
            attacks.judge_error(outcome, ("No space left on device",), note)
        filler.unlink()
        attacks.judge(outcome, old, note)
    report(attacks.summary("full disk", tries))
    assert not attacks.failures, "\n".join(attacks.failures)


@contextmanager
def _as_nobody(attacks: Attacks) -> Iterator[int]:
    """Everything is owned by root and may be read by anyone."""
    for folder in (attacks.work, *attacks.work.parents):
        if folder.is_relative_to(tempfile.gettempdir()):
            folder.chmod(0o755)
    yield _NOBODY


@contextmanager
def _read_only_disk(attacks: Attacks) -> Iterator[None]:
    disk = attacks.work.parent
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@pytest.mark.parametrize("refusal", [_as_nobody, _read_only_disk], ids=["another user", "read-only disk"])
def test_a_folder_that_may_not_be_written_is_one_line_and_stays_as_it_was(
    on_disk: Attacks, refusal: Callable[[Attacks], Iterator[int | None]], report: Report
) -> None:
    attacks = on_disk
    calls: list[tuple[bool, tuple[str, ...]]] = [(False, ()), (True, ("--force",))]
    if attacks.command.resume:
        calls.append((True, ("--resume", "--set", "seed=1")))  # the old run's
    for old, more in calls:
        attacks.prepare(old)
        with refusal(attacks) as user:  # type: ignore[attr-defined]
            outcome = attacks.run(*more, user=user)
            state = attacks.command.state(attacks.work)
        note = f"{' '.join(more) or 'nothing there'}"
        if state != (OLD if old else ABSENT):
            attacks.fail(f"{note}: the output is {state}")
        reasons = ("no permission", "Permission denied", "Read-only file system", "permission to write")
        attacks.judge_error(outcome, reasons, note)
    report(attacks.summary("refused", len(calls)))
    assert not attacks.failures, "\n".join(attacks.failures)
    assert NEW not in attacks.counts
