"""How many steps a run has when it was given minutes instead: the schedule is laid over the time."""

from __future__ import annotations

import time

#: Steps between two estimates.
EVERY = 25
#: Two windows in a row whose speeds differ by less show that nothing is being compiled any more.
STEADY = 1.5


class Budget:
    """Estimates the steps that fit, again and again until the learning rate falls at a steady speed; then they stay."""

    def __init__(self, minutes: float, decay_fraction: float, start: int) -> None:
        """``start``: steps done before; the minutes are those of this call."""
        self.decay_fraction = decay_fraction
        self.since = start, time.monotonic()
        self.deadline = self.since[1] + 60.0 * minutes
        self.settled = False
        self._before = 0.0  # seconds a step took in the window before

    def steps(self, done: int, planned: int) -> int:
        """The steps of the run, ``done`` of them done, ``planned`` by the last estimate."""
        now = time.monotonic()
        since, began = self.since
        if not self.settled and now >= self.deadline:
            return done
        if self.settled or done < since + EVERY:
            return planned
        each = (now - began) / (done - since)
        steady = self._before / STEADY < each < self._before * STEADY
        self.since, self._before = (done, now), each
        fitting = done + int((self.deadline - now) / each)
        self.settled = steady and done >= fitting * (1.0 - self.decay_fraction)
        return max(done + 1, fitting)
