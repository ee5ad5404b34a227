"""MicroForge on a device: numpy and one inference engine, never torch.

The names below load when they are first used, so that command lines answer ``--help`` at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microforge_runtimes.editor import Editor
    from microforge_runtimes.engines.registry import open_session
    from microforge_runtimes.engines.session import Session
    from microforge_runtimes.generator import Generator, Result
    from microforge_runtimes.request import Request
    from microforge_runtimes.sampler import Step

__all__ = ["Editor", "Generator", "Request", "Result", "Session", "Step", "open_session"]

_HOMES = {
    "Editor": "editor",
    "Generator": "generator",
    "Request": "request",
    "Result": "generator",
    "Session": "engines.session",
    "Step": "sampler",
    "open_session": "engines.registry",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
