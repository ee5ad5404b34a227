"""MicroForge: text-to-image for phones. Importing this package imports no torch."""

from microforge.version import __version__

__all__ = ["__version__"]
