"""MicroForge on a device: numpy and one inference engine, never torch.

The names below load when they are first used, so that command lines answer ``--help`` at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microforge_runtimes.edit import Editor
    from microforge_runtimes.generate import Conditioning, Generator, Result
    from microforge_runtimes.sampler import Step
    from microforge_runtimes.session import Session, open_session

__all__ = ["Conditioning", "Editor", "Generator", "Result", "Session", "Step", "open_session"]

_HOMES = {
    "Conditioning": "generate",
    "Editor": "edit",
    "Generator": "generate",
    "Result": "generate",
    "Session": "session",
    "Step": "sampler",
    "open_session": "session",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
