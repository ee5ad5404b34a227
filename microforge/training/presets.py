"""Default settings of every stage and model size."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace

from microforge.errors import SpecError
from microforge.training.settings import (
    STAGES,
    EditSettings,
    FlowSettings,
    KDSettings,
    OptimizerSettings,
    RewardSettings,
    RewriteSettings,
    StageSettings,
    VAESettings,
)

_VAE = {
    "nano": VAESettings(OptimizerSettings(1e-3), steps=16_000),
    "tiny": VAESettings(OptimizerSettings(1e-3), steps=50_000),
    "small": VAESettings(OptimizerSettings(3e-4), steps=50_000),
    "base": VAESettings(OptimizerSettings(1e-4), steps=50_000),
}
_FLOW = {
    "nano": FlowSettings(OptimizerSettings(1.5e-3), steps=10_000, batch=48, scenes=49_152),
    "tiny": FlowSettings(OptimizerSettings(1e-3), steps=100_000, noise_samples=2),
    "small": FlowSettings(OptimizerSettings(2e-4), steps=100_000),
    "base": FlowSettings(OptimizerSettings(1e-4), steps=100_000),
}
_KD = {
    "nano": KDSettings(OptimizerSettings(5e-4), steps=5_000, batch=48, scenes=49_152),
    "tiny": KDSettings(OptimizerSettings(1e-4), steps=30_000),
    "small": KDSettings(OptimizerSettings(5e-5), steps=30_000),
    "base": KDSettings(OptimizerSettings(2e-5), steps=30_000),
}
_EDIT = {
    "nano": EditSettings(OptimizerSettings(5e-4), steps=10_000, batch=48, scenes=49_152),
    "tiny": EditSettings(OptimizerSettings(2e-4), steps=20_000, noise_samples=2),
    "small": EditSettings(OptimizerSettings(5e-5), steps=20_000),
    "base": EditSettings(OptimizerSettings(1e-5), steps=20_000),
}

#: A short continuation of finished weights. Measured for tiny only; larger models get a lower learning rate.
_SHORT = OptimizerSettings(2e-4, "muon", warmup_steps=5, decay_fraction=0.9, ema=0.98)
_SHORT_RATES = {"nano": 2e-4, "tiny": 2e-4, "small": 5e-5, "base": 2e-5}
_REWARD = RewardSettings(
    _SHORT,
    steps=300,
    batch=16,
    scenes=24_576,
    captions_per_scene=6,
    time_shift=2.0,
    generate=0.875,
    edit=0.0,
    inpaint=0.125,
    super_resolve=0.0,
)
_REWRITE = RewriteSettings(
    _SHORT,
    steps=600,
    batch=8,
    noise_samples=2,
    judged_per_example=8,
    scenes=24_576,
    captions_per_scene=6,
    time_shift=2.0,
    generate=0.75,
    edit=0.0,
    inpaint=0.25,
    super_resolve=0.0,
)

#: Stage -> configuration -> settings.
STAGE_PRESETS: Mapping[str, Mapping[str, StageSettings]] = types.MappingProxyType(
    {
        "vae": _VAE,
        "flow": _FLOW,
        "kd": _KD,
        "edit": _EDIT,
        "reward": {
            name: replace(_REWARD, optimizer=replace(_SHORT, learning_rate=rate))
            for name, rate in _SHORT_RATES.items()
        },
        "rewrite": {
            name: replace(_REWRITE, optimizer=replace(_SHORT, learning_rate=rate))
            for name, rate in _SHORT_RATES.items()
        },
    }
)


def preset_settings(stage: str, config: str) -> StageSettings:
    """The default settings of ``stage`` for the configuration ``config``.

    Raises:
        SpecError: for an unknown stage.
    """
    if stage not in STAGES:
        raise SpecError(f"unknown stage {stage!r}; allowed: {', '.join(STAGES)}")
    return STAGE_PRESETS[stage][config]
