"""The stable Python interface: what ``import microforge`` offers. Needs no torch until a checkpoint is opened.

It is the one place where the package ``microforge`` imports the runtimes and the exporter, which stand above it.
"""
