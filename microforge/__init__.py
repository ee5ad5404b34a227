"""MicroForge: text-to-image for phones.

The names in ``__all__`` are the stable interface: they change only with the major version (before 1.0: a minor one).
Every other module of the package may change at any time. Importing the package imports neither torch nor numpy, since
each name loads when it is first used.

    import microforge

    model = microforge.load()
    model.generate("a red circle", seed=3).save("circle.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from microforge.version import __version__

if TYPE_CHECKING:
    from microforge.facade.backends import Size
    from microforge.facade.export import export
    from microforge.facade.fetch import fetch
    from microforge.facade.images import ImageLike
    from microforge.facade.load import load
    from microforge.facade.model import Model
    from microforge.facade.pretrained import from_pretrained
    from microforge.facade.result import GeneratedImage
    from microforge_runtimes.sampler import Step

__all__ = [
    "GeneratedImage",
    "ImageLike",
    "Model",
    "Size",
    "Step",
    "__version__",
    "export",
    "fetch",
    "from_pretrained",
    "load",
]

_HOMES = {
    "GeneratedImage": "microforge.facade.result",
    "ImageLike": "microforge.facade.images",
    "Model": "microforge.facade.model",
    "Size": "microforge.facade.backends",
    "Step": "microforge_runtimes.sampler",
    "export": "microforge.facade.export",
    "fetch": "microforge.facade.fetch",
    "from_pretrained": "microforge.facade.pretrained",
    "load": "microforge.facade.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
