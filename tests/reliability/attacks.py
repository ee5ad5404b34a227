"""One command that is attacked again and again: a fresh folder for every try, and the verdict on what it leaves."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.commands import Command
from tests.reliability.outputs import ABSENT, NEW, OLD, hidden
from tests.reliability.processes import CommandServer, Job, Outcome


class Attacks:
    """Attacks one command again and again in a folder that is fresh every time."""

    def __init__(self, command: Command, server: CommandServer, folder: Path, whole: Path) -> None:
        """``whole`` is a folder in which the command ran undisturbed."""
        self.command, self.server, self.whole = command, server, whole
        self.work, self.log, self.temporary = folder / "work", folder / "log", folder
        self.counts: Counter[str] = Counter()
        self.judged = 0
        self.failures: list[str] = []

    def restart(self) -> None:
        """Forget the tries so far."""
        self.counts.clear()
        self.failures.clear()
        self.judged = 0

    def fail(self, text: str) -> None:
        """Note a failure; it is printed at once, too (``-s`` shows it)."""
        self.failures.append(text)
        print(f"FAILURE: {self.command.name}: {text}", flush=True)

    def run(
        self, *more: str, after: float | None = None, number: int = signal.SIGKILL, kill_at: int | None = None,
        user: int | None = None,
    ) -> Outcome:  # fmt: skip
        """Call the command with ``more`` arguments; the other parameters are those of ``Job`` and ``CommandServer.run``."""
        arguments = (*self.command.arguments, *more)
        job = Job(self.command.app, arguments, self.work, self.log, self.temporary, user, kill_at)
        return self.server.run(job, after, number)

    def prepare(self, old: bool) -> tuple[str, ...]:
        """A fresh folder, with old outputs or without; returns the arguments that this needs."""
        self.work.mkdir(exist_ok=True)
        for entry in self.work.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        if self.command.name == "mf-train flow":
            shutil.copytree(self.whole / "run" / "vae", self.work / "run" / "vae")
        if old:
            self.command.put_old(self.work)
        return ("--force",) if old else ()

    def judge(self, outcome: Outcome, old: bool, note: str, call_again: bool = True) -> None:
        """Judge the outputs after ``outcome``, then whether the next call succeeds and leaves nothing behind."""
        try:
            state = self.command.state(self.work)
            assert state in ((OLD, NEW) if old else (ABSENT, NEW)), f"the output is {state}"
            if outcome.code == 0:
                assert state == NEW, f"the command succeeded and the output is {state}"
            self.counts[state] += 1
            self.counts["left something"] += bool(self.leftovers())
            if call_again:
                self._continue()
        except Exception as error:
            names = sorted(str(path.relative_to(self.work)) for path in self.work.rglob("*"))[:40]
            self.fail(f"{note}: {type(error).__name__}: {str(error)[:600]} {names}")
        self.judged += 1
        if self.judged % 10 == 0:
            print(self.summary("so far", self.judged), flush=True)

    def _continue(self) -> None:
        """The next call: --resume where the command has it, else --force."""
        ways = (("--resume",), (), ("--force",)) if self.command.resume else (("--force",),)
        outcomes = []
        for more in ways:
            outcomes.append(self.run(*more))
            if outcomes[-1].code == 0:
                break
            text = outcomes[-1].text
            assert outcomes[-1].code == 2 and "Traceback" not in text, (
                f"{more}: {outcomes[-1].code} {text[-600:]}"
            )
        assert outcomes[-1].code == 0, [item.text[-300:] for item in outcomes]
        self.counts[f"continued with {' '.join(more) or 'no option'}"] += 1
        assert self.command.state(self.work) == NEW
        assert self.command.equal(self.whole, self.work), "other weights than without interruption"
        assert not self.leftovers(), f"left: {self.leftovers()}"

    def leftovers(self) -> list[str]:
        """Hidden files and folders that a command that has ended must not leave."""
        return [name for name in hidden(self.work) if not name.startswith(self.command.kept or "//")]

    def judge_error(self, outcome: Outcome, reasons: Sequence[str], note: str) -> None:
        """Judge what a command printed that could not write: exit code 2 and one line with one of ``reasons``.

        Call it before ``judge``, which runs the command again.
        """
        lines = [line for line in outcome.text.splitlines() if line.startswith("error: ")]
        wrong = [word for word in ("Traceback", "Exception ignored") if word in outcome.text]
        clear = len(lines) == 1 and any(reason in lines[0] for reason in reasons)
        if outcome.code != 2 or wrong or not clear or self.leftovers():
            left = self.leftovers()
            self.fail(f"{note}: exit code {outcome.code}, left {left}: {outcome.text[-1500:]}")
        self.counts[f"exit code {outcome.code}"] += 1

    def summary(self, kind: str, tries: int) -> str:
        """One line for the terminal."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{kind}: {self.command.name}: {tries} tries, {len(self.failures)} failures ({counts})"
