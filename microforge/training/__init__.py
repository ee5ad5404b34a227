"""Training: `mf-train` and the stages behind it. The only way MicroForge weights are made."""
