"""The number of steps of a run that is limited by time: the learning-rate schedule is laid over the minutes."""

from __future__ import annotations

import time

#: Steps between two estimates.
ESTIMATE_EVERY = 25
#: Compilation is over when the speeds of two consecutive intervals differ by less than this factor.
STEADY = 1.5


class TimeBudget:
    """Estimates repeatedly how many steps fit, until the learning rate decays at a steady speed; then keeps the number."""

    def __init__(self, minutes: float, decay_fraction: float, start: int) -> None:
        """Start the clock; ``start`` is the number of steps done before this call."""
        self.decay_fraction = decay_fraction
        self.since = start, time.monotonic()
        self.deadline = self.since[1] + 60.0 * minutes
        self.settled = False
        self._previous = 0.0  # seconds per step in the previous interval

    def steps(self, done: int, planned: int) -> int:
        """The total steps of the run, given ``done`` steps and the previous estimate ``planned``."""
        now = time.monotonic()
        since, began = self.since
        if not self.settled and now >= self.deadline:
            return done
        if self.settled or done < since + ESTIMATE_EVERY:
            return planned
        each = (now - began) / (done - since)
        steady = self._previous / STEADY < each < self._previous * STEADY
        self.since, self._previous = (done, now), each
        fitting = done + int((self.deadline - now) / each)
        self.settled = steady and done >= fitting * (1.0 - self.decay_fraction)
        return max(done + 1, fitting)
