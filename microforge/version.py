"""The version of the whole distribution, in its one place."""

__version__ = "0.2.0"
