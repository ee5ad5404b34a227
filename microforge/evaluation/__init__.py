"""Evaluation of generated images: a rule-based detector, verdicts, image metrics and scores of whole test sets."""
