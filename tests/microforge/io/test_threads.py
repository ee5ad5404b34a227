"""Threads are capped at the cores that the process may use, with one warning."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from microforge.io import threads as module
from microforge.io.threads import cpu_quota, usable_cores, usable_threads


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    module._warn.cache_clear()


def test_more_threads_than_cores_are_capped_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    cores = usable_cores()
    assert usable_threads(1024) == usable_threads(1024) == cores
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"may use {cores} cores" in printed


def test_fewer_threads_and_the_engines_own_choice_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cpu_quota", lambda *paths: None)
    assert usable_threads(None) is None and usable_threads(1) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_the_cores_of_a_pinned_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert usable_cores() == 1 and usable_threads(2) == 1


def _groups(folder: Path, files: dict[str, str], membership: str) -> tuple[Path, Path]:
    root = folder / "groups"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (folder / "membership").write_text(membership)
    return folder / "membership", root


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/\n", None),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4.0),
        ({"a/cpu.max": "50000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b\n", 0.5),
        ({"cpu.max": "200000 100000"}, "0::/docker/not/mounted/here\n", 2.0),
        ({"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x\n", 2.5),
        ({"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/x\n2:memory:/y\n", None),
        ({"cpu.max": "100000 0"}, "0::/../..\n", None),
        ({"cpu.max": "abc"}, "nonsense", None),
        ({}, "", None),
    ],
)  # fmt: skip
def test_the_share_of_time_of_a_container_is_read(
    tmp_path: Path, files: dict[str, str], membership: str, quota: float | None
) -> None:
    assert cpu_quota(*_groups(tmp_path, files, membership)) == quota


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (64.0, 8)])
def test_a_containers_share_of_time_caps_given_and_default_threads(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
) -> None:
    monkeypatch.setattr(module, "visible_cores", lambda: 8)
    monkeypatch.setattr(module, "cpu_quota", lambda *paths: quota)
    assert usable_cores() == cores and usable_threads(32) == cores
    assert usable_threads(None) == (cores if cores < 8 else None)
