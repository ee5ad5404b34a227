"""Evaluation of sticker models: retrieval of the asked subject, and GenEval's prompts in the sticker domain."""
