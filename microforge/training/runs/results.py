"""What a training command returns: where the checkpoint is, or what a run would need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunResult:
    """A finished run; ``loss`` is the last smoothed score, None when no step was left to train."""

    checkpoint: Path
    steps: int
    loss: float | None

    def values(self) -> dict[str, object]:
        """The result as JSON values."""
        return {"checkpoint": str(self.checkpoint.absolute()), "steps": self.steps, "loss": self.loss}


@dataclass(frozen=True)
class PhaseResult(RunResult):
    """A finished phase of a curriculum."""

    phase: str

    def values(self) -> dict[str, object]:
        """The result as JSON values."""
        return {"phase": self.phase, **super().values()}


@dataclass(frozen=True)
class CurriculumResult:
    """A finished curriculum; its checkpoint is that of the last phase."""

    phases: tuple[PhaseResult, ...]

    @property
    def checkpoint(self) -> Path:
        """The last phase's checkpoint."""
        return self.phases[-1].checkpoint

    def values(self) -> dict[str, object]:
        """The result as JSON values."""
        phases = [phase.values() for phase in self.phases]
        return {"checkpoint": str(self.checkpoint.absolute()), "phases": phases}
