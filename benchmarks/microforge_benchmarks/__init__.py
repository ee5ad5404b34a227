"""Measures what MicroForge models and bundles do: how well they follow prompts, how fast, with how much memory."""
