"""Commands that are killed at any moment leave the old or the new output, and never stop the next call.

``python -m pytest tests/reliability/test_kills.py -m slow --tries 50`` kills every command fifty times at random moments
and once before each of its changes of the file system.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.commands import Command
from tests.reliability.conftest import NAMES, Report
from tests.reliability.outputs import ABSENT, NEW, OLD, hidden
from tests.reliability.processes import CommandServer, Job, Outcome

pytestmark = pytest.mark.slow
_KILLED = -signal.SIGKILL


class Attacks:
    """Attacks one command again and again in a folder that is fresh every time."""

    def __init__(self, command: Command, server: CommandServer, folder: Path, whole: Path) -> None:
        """``whole`` is a folder in which the command ran undisturbed."""
        self.command, self.server, self.folder, self.whole = command, server, folder, whole
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def job(self, *more: str, kill_at: int | None = None) -> Job:
        """A call of the command with ``more`` arguments."""
        work = self.folder / "work"
        return Job(
            self.command.app,
            (*self.command.arguments, *more),
            work,
            self.folder / "log",
            self.folder,
            kill_at=kill_at,
        )

    def prepare(self, old: bool) -> tuple[str, ...]:
        """A fresh folder, with old outputs or without; returns the arguments that this needs."""
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        if self.command.name == "mf-train flow":
            shutil.copytree(self.whole / "run" / "vae", work / "run" / "vae")
        if old:
            self.command.put_old(work)
        return ("--force",) if old else ()

    def judge(self, outcome: Outcome, old: bool, note: str) -> None:
        """Judge the outputs after ``outcome``, then whether the next call succeeds and leaves nothing behind."""
        work = self.folder / "work"
        try:
            state = self.command.state(work)
            assert state in ((OLD, NEW) if old else (ABSENT, NEW)), f"the output is {state}"
            if outcome.code == 0:
                assert state == NEW, f"the command succeeded and the output is {state}"
            self.counts[state] += 1
            self.counts["left something"] += bool(self._leftovers())
            self._continue()
        except Exception as error:
            names = sorted(str(path.relative_to(work)) for path in work.rglob("*"))[:40]
            self.failures.append(f"{note}: {type(error).__name__}: {str(error)[:600]} {names}")

    def _continue(self) -> None:
        """The next call: --resume where the command has it, else --force."""
        ways = (("--resume",), (), ("--force",)) if self.command.resume else (("--force",),)
        outcomes = []
        for more in ways:
            outcomes.append(self.server.run(self.job(*more)))
            if outcomes[-1].code == 0:
                break
            text = outcomes[-1].text
            assert outcomes[-1].code == 2 and "Traceback" not in text, (
                f"{more}: {outcomes[-1].code} {text[-600:]}"
            )
        assert outcomes[-1].code == 0, [item.text[-300:] for item in outcomes]
        self.counts[f"continued with {' '.join(more) or 'no option'}"] += 1
        assert self.command.state(self.folder / "work") == NEW
        assert self.command.equal(self.whole, self.folder / "work"), "other weights than without interruption"
        assert not self._leftovers(), f"left: {self._leftovers()}"

    def _leftovers(self) -> list[str]:
        return [
            name for name in hidden(self.folder / "work") if not name.startswith(self.command.kept or "//")
        ]

    def summary(self, kind: str, tries: int) -> str:
        """One line for the terminal."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{kind}: {self.command.name}: {tries} tries, {len(self.failures)} failures ({counts})"


@pytest.fixture(scope="module", params=NAMES)
def attacks(
    request: pytest.FixtureRequest,
    make_command: Callable[[str], Command],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Attacks]:
    """A command whose modules are imported already, and the folder of an undisturbed call."""
    command = make_command(request.param)
    folder = tmp_path_factory.mktemp(f"attack-{request.param}")
    whole, modules = folder / "whole", folder / "modules"
    whole.mkdir()
    if request.param == "flow":
        assert command.old is not None
        shutil.copytree(command.old / "run" / "vae", whole / "run" / "vae")
    with CommandServer(mini=True) as server:
        job = Job(command.app, command.arguments, whole, folder / "log", folder, modules=modules)
        outcome = server.run(job)
    assert outcome.code == 0, outcome.text
    with CommandServer(modules, mini=True) as server:
        yield Attacks(command, server, folder, whole)


def test_a_command_killed_at_a_random_moment_leaves_the_old_or_the_new_output(
    attacks: Attacks, tries: int, report: Report
) -> None:
    attacks.counts.clear()
    attacks.failures.clear()
    seconds = {old: attacks.server.run(attacks.job(*attacks.prepare(old))).seconds for old in (False, True)}
    random.seed(29)
    for number in range(tries):
        old = bool(number % 2)
        more, moment = attacks.prepare(old), random.uniform(0.0, 1.05 * seconds[old])
        outcome = attacks.server.run(attacks.job(*more), after=moment)
        assert outcome.code in (0, _KILLED), outcome.text
        attacks.counts["killed"] += outcome.code == _KILLED
        attacks.judge(outcome, old, f"try {number}, after {moment:.3f} s of {seconds[old]:.3f}")
    report(attacks.summary("random moments", tries))
    assert not attacks.failures, "\n".join(attacks.failures)


def test_a_command_killed_before_any_change_of_the_file_system_leaves_the_old_or_the_new_output(
    attacks: Attacks, tries: int, report: Report
) -> None:
    attacks.counts.clear()
    attacks.failures.clear()
    for number in itertools.count():
        outcome = attacks.server.run(attacks.job(*attacks.prepare(True), kill_at=number))
        assert outcome.code in (0, _KILLED), outcome.text
        attacks.judge(outcome, True, f"change {number}")
        if outcome.code == 0 or (tries <= 2 and number >= 3):
            break
    report(attacks.summary("every change", number))
    assert not attacks.failures, "\n".join(attacks.failures)
