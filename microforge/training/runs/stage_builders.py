"""From a plan to the stage that it trains: networks with their starting weights, and data that is ready."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console

from microforge.checkpoint import Checkpoint
from microforge.data.image_source import ImageSource
from microforge.data.open import open_triples
from microforge.data.world.tokenizer_corpus import build_tokenizer
from microforge.tokenizer import SHIPPED_TOKENIZER, PromptTokenizer
from microforge.training.engine.loop import TrainingStage
from microforge.training.runs.plan import StagePlan
from microforge.training.runs.starting_weights import StartingWeights
from microforge.training.settings import (
    EditSettings,
    FlowSettings,
    KDSettings,
    RewardSettings,
    RewriteSettings,
    VAESettings,
)
from microforge.training.stages.autoencoder_weights import load_autoencoder
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import FlowContext, FlowStage, choose_tokenizer
from microforge.training.stages.kd import KDStage
from microforge.training.stages.reward import RewardStage
from microforge.training.stages.rewrite import RewriteStage
from microforge.training.stages.vae import VAEStage

#: Files of encoded data in a stage's folder.
LATENTS_FILE, TRIPLES_FILE = "latents.safetensors", "triples.safetensors"


@dataclass(frozen=True)
class StageInputs:
    """What a stage is built from: its plan, checkpoints and images."""

    plan: StagePlan
    weights: StartingWeights
    source: ImageSource
    console: Console


def build_stage(inputs: StageInputs) -> TrainingStage:
    """The stage of a plan.

    Raises:
        CheckpointError: when weights do not fit.
        MissingExtraError: when a loss term needs a package that is not installed.
        DataError: when not one image can be used.
    """
    return BUILDERS[inputs.plan.stage](inputs)


def _vae(inputs: StageInputs) -> TrainingStage:
    plan, weights, settings = inputs.plan, inputs.weights, inputs.plan.settings
    assert isinstance(settings, VAESettings)
    tokenizer = _vae_tokenizer(plan)
    finished = weights.vae if plan.decoder_only else None
    inputs.source.prepare(plan.size)
    stage = VAEStage(plan.spec, settings, plan.loop, plan.size, tokenizer, finished, source=inputs.source)
    if weights.init is not None:
        load_autoencoder(weights.init, stage.network)
    return stage


def _vae_tokenizer(plan: StagePlan) -> PromptTokenizer:
    """The tokenizer that the VAE's checkpoint passes on to the later stages."""
    if plan.tokenizer is not None:
        return PromptTokenizer.load(plan.tokenizer)
    return PromptTokenizer.load() if SHIPPED_TOKENIZER.is_file() else build_tokenizer()


def _flow(inputs: StageInputs) -> FlowStage:
    plan, weights, settings = inputs.plan, inputs.weights, inputs.plan.settings
    assert isinstance(settings, FlowSettings) and weights.vae is not None
    tokenizer = choose_tokenizer(weights.vae, weights.init, plan.tokenizer)
    context = FlowContext.open(plan.spec, weights.vae, plan.loop, plan.size, tokenizer)
    cache = plan.folder / LATENTS_FILE
    return FlowStage(context, settings, inputs.source, cache, inputs.console, weights.init)


def _kd(inputs: StageInputs) -> TrainingStage:
    settings, teacher = inputs.plan.settings, inputs.weights.teacher
    assert isinstance(settings, KDSettings) and teacher is not None
    return KDStage(_flow(inputs), settings, teacher)


def _edit(inputs: StageInputs) -> EditStage:
    """The edit stage; a teacher of the stage edit is the reference of what is preserved."""
    return _edit_with(inputs, inputs.weights.teacher)


def _edit_with(inputs: StageInputs, reference: Checkpoint | None) -> EditStage:
    plan, weights, settings = inputs.plan, inputs.weights, inputs.plan.settings
    assert isinstance(settings, EditSettings) and weights.init is not None
    triples = open_triples(inputs.source, plan.data.edits)
    if reference is None and settings.preserve_generation:
        reference = weights.init
    cache = plan.folder / TRIPLES_FILE
    return EditStage(_flow(inputs), settings, triples, weights.init, cache, inputs.console, reference)


def _reward(inputs: StageInputs) -> TrainingStage:
    settings, weights = inputs.plan.settings, inputs.weights
    assert isinstance(settings, RewardSettings) and weights.init is not None
    generator = weights.teacher or weights.init
    return RewardStage(_edit_with(inputs, None), settings, weights.init, generator)


def _rewrite(inputs: StageInputs) -> TrainingStage:
    settings, weights = inputs.plan.settings, inputs.weights
    assert isinstance(settings, RewriteSettings) and weights.init is not None
    generator = weights.teacher or weights.init
    return RewriteStage(_edit_with(inputs, None), settings, weights.init, generator)


#: Stage -> what builds it.
BUILDERS: Mapping[str, Callable[[StageInputs], TrainingStage]] = types.MappingProxyType(
    {
        "vae": _vae,
        "flow": _flow,
        "kd": _kd,
        "edit": _edit,
        "reward": _reward,
        "rewrite": _rewrite,
    }
)
