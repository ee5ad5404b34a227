"""Commands that are killed at any moment leave the old or the new output, and never stop the next call.

``python -m pytest tests/reliability/test_kills.py -m slow --tries 50`` kills every command fifty times at random moments
and once before each of its changes of the file system.
"""

from __future__ import annotations

import itertools
import random
import signal

import pytest

from tests.reliability.attacks import Attacks
from tests.reliability.conftest import Report

pytestmark = pytest.mark.slow
_KILLED = -signal.SIGKILL
#: A command that takes more seconds is called again after two of every ten kills only.
_LONG, _EVERY = 2.0, 10


def test_a_command_killed_at_a_random_moment_leaves_the_old_or_the_new_output(
    attacks: Attacks, tries: int, report: Report
) -> None:
    attacks.restart()
    seconds = {old: attacks.run(*attacks.prepare(old)).seconds for old in (False, True)}
    random.seed(29)
    for number in range(tries):
        old = bool(number % 2)
        more, moment = attacks.prepare(old), random.uniform(0.0, 1.05 * seconds[old])
        outcome = attacks.run(*more, after=moment)
        assert outcome.code in (0, _KILLED), outcome.text
        attacks.counts["killed"] += outcome.code == _KILLED
        again = seconds[old] < _LONG or number % _EVERY < 2  # after a kill without and with an old output
        attacks.judge(outcome, old, f"try {number}, after {moment:.3f} s of {seconds[old]:.3f}", again)
    report(attacks.summary("random moments", tries))
    assert not attacks.failures, "\n".join(attacks.failures)


def test_a_command_killed_before_any_change_of_the_file_system_leaves_the_old_or_the_new_output(
    attacks: Attacks, tries: int, report: Report
) -> None:
    attacks.restart()
    for number in itertools.count():
        outcome = attacks.run(*attacks.prepare(True), kill_at=number)
        assert outcome.code in (0, _KILLED), outcome.text
        attacks.judge(outcome, True, f"change {number}")
        if outcome.code == 0 or (tries <= 2 and number >= 3):
            break
    report(attacks.summary("every change", number))
    assert not attacks.failures, "\n".join(attacks.failures)
