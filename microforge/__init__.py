"""MicroForge: text-to-image for phones. Importing this package imports no torch."""

__version__ = "0.1.0"
