"""How many steps a run has when it was given minutes instead: the schedule is laid over the time."""

from __future__ import annotations

import time

#: The first steps of a run compile, tune and warm up: they say nothing about its speed.
SLOW_START = 20
#: Steps between two estimates.
EVERY = 25


class Budget:
    """Estimates the steps that fit, again and again until the learning rate begins to fall; then they are settled."""

    def __init__(self, minutes: float, decay_fraction: float, start: int) -> None:
        """``start``: steps done before; the minutes are those of this call."""
        self.decay_fraction, self.start = decay_fraction, start
        self.deadline = time.monotonic() + 60.0 * minutes
        self._since: tuple[int, float] | None = None

    def steps(self, done: int, planned: int) -> int:
        """The steps of the run, ``done`` of them done, ``planned`` by the last estimate."""
        now = time.monotonic()
        if done >= self.start + SLOW_START and self._since is None:
            self._since = done, now
        if self._since is None:
            return planned if now < self.deadline else done
        since, began = self._since
        if done == since or done % EVERY or done >= planned * (1.0 - self.decay_fraction):
            return planned
        each = (now - began) / (done - since)
        return max(done, done + int((self.deadline - now) / each))
