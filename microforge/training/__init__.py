"""Training: `mf-train` and the stages behind it. All MicroForge weights come from it."""
