"""Reports of ``mf-eval`` as typed values; ``dataclasses.asdict`` gives their JSON form (docs/evaluation.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from microforge.evaluation.scores import GenerationScores, TaskScores, VAEQuality

FORMAT = 1


@dataclass(frozen=True)
class KidValue:
    """A kernel distance, its standard error, and the number of subsets that gave the error."""

    value: float
    stderr: float | None
    subsets: int


@dataclass(frozen=True)
class KidReport(KidValue):
    """The model's distance from true renders, and two distances to compare it with.

    Attributes:
        features: classifier whose features are compared.
        floor: distance of true renders from other true renders of the same prompts.
        vae_round_trip: distance of true renders after the autoencoder from the same renders before it.
    """

    features: str
    floor: KidValue
    vae_round_trip: KidValue | None


@dataclass(frozen=True)
class PlannerReport:
    """Planner metrics over the first ``prompts`` prompts (see ``PlannerMetrics``)."""

    prompts: int
    mean_cosine: float
    self_conditioning_change: float


@dataclass(frozen=True)
class GenerationReport:
    """Report of ``mf-eval MODEL``: what was evaluated, how, and all scores."""

    format: int
    model: str
    kind: str
    identity: str
    size: tuple[int, int]
    steps: int
    guidance: float
    seed: int
    prompts: int
    prompt_set: str
    scores: GenerationScores
    ceilings: Mapping[str, GenerationScores]
    vae: VAEQuality | None
    kid: KidReport | None
    planner: PlannerReport | None


@dataclass(frozen=True)
class TaskReport:
    """Report of ``mf-eval MODEL --task TASK``; ``ceilings`` has the scores of true targets."""

    format: int
    model: str
    kind: str
    identity: str
    task: str
    size: tuple[int, int]
    steps: int
    guidance: float
    seed: int
    examples: int
    masked: bool
    scores: TaskScores
    ceilings: Mapping[str, TaskScores]
