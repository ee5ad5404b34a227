"""The command ``mf-generate``, part by part."""
