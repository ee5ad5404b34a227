"""Does an image show what its prompt says? The oracle, its verdicts, image metrics and whole evaluations."""
