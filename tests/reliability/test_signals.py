"""SIGTERM and Ctrl-C at any moment: one line, the old or the new output, and nothing left beside it.

``python -m pytest tests/reliability/test_signals.py -m slow --tries 50``
"""

from __future__ import annotations

import random
import signal

import pytest

from tests.reliability.attacks import Attacks
from tests.reliability.conftest import Report

pytestmark = pytest.mark.slow
#: Signal -> exit code, and the one line.
_ENDINGS = {signal.SIGTERM: (143, "error: ended by SIGTERM"), signal.SIGINT: (130, "error: interrupted")}


def test_a_command_that_is_asked_to_end_leaves_the_old_or_the_new_output_and_nothing_else(
    attacks: Attacks, tries: int, report: Report
) -> None:
    attacks.restart()
    seconds = {old: attacks.run(*attacks.prepare(old)).seconds for old in (False, True)}
    random.seed(30)
    for number in range(tries):
        old, kind = bool(number % 2), (signal.SIGTERM, signal.SIGINT)[number // 2 % 2]
        more, moment = attacks.prepare(old), random.uniform(0.02, 1.05 * seconds[old])
        outcome = attacks.run(*more, after=moment, number=kind)
        note = f"try {number}, {kind.name} after {moment:.3f} s of {seconds[old]:.3f}"
        code, line = _ENDINGS[kind]
        lines = [text for text in outcome.text.splitlines() if text.startswith("error: ")]
        one_line = len(lines) == 1 and lines[0].startswith(line) and "Traceback" not in outcome.text
        if outcome.code not in (0, code) or (outcome.code == code and (not one_line or attacks.leftovers())):
            text = outcome.text[-1500:]
            attacks.fail(f"{note}: exit code {outcome.code}, left {attacks.leftovers()}: {text}")
        attacks.counts[f"exit code {outcome.code}"] += 1
        attacks.judge(outcome, old, note)
    report(attacks.summary("signals", tries))
    assert not attacks.failures, "\n".join(attacks.failures)
