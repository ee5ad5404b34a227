"""The option --threads of commands that measure with several counts of threads."""

from __future__ import annotations

from microforge.errors import SpecError


def thread_counts(threads: str | None) -> list[int | None]:
    """Counts from ``1,2``; [None], the engine's own choice, without the option.

    Raises:
        SpecError: for anything else.
    """
    if threads is None:
        return [None]
    words = [word.strip() for word in threads.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 1024 for word in words):
        raise SpecError(f"--threads is {threads!r}; write counts from 1 to 1024 with commas, as 1,2")
    return [int(word) for word in words]
