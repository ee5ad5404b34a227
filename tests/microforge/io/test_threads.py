"""Threads are capped at the cores that the process may use, with one warning."""

from __future__ import annotations

import os

import pytest

from microforge.io import threads as module
from microforge.io.threads import usable_cores, usable_threads


@pytest.fixture(autouse=True)
def _warn_again() -> None:
    module._warn.cache_clear()


def test_more_threads_than_cores_are_capped_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    cores = usable_cores()
    assert usable_threads(1024) == usable_threads(1024) == cores
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"may use {cores} cores" in printed


def test_fewer_threads_and_the_engines_own_choice_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert usable_threads(None) is None and usable_threads(1) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_the_cores_of_a_pinned_process_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert usable_cores() == 1 and usable_threads(2) == 1
