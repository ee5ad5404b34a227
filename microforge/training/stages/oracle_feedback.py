"""What the stages reward and rewrite share: an edit stage with a term of the model's own making beside its loss.

Both compare with the weights that the run started from, which stay as they were, and keep the edit stage's own loss: it keeps
images those of the data, and the tasks with a source trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from microforge.checkpoint import Checkpoint
from microforge.spec import TASKS
from microforge.training.engine.loop import WithoutAdversary
from microforge.training.settings import SELF_TAUGHT, JudgedSettings
from microforge.training.stages.edit import EditStage
from microforge.training.stages.flow import frozen_network


class SelfTaughtStage(WithoutAdversary):
    """An ``EditStage`` and the network from before the run; a stage of it adds its term in ``loss``."""

    name: ClassVar[str]  # of the stage

    def __init__(self, edit: EditStage, settings: JudgedSettings, before: Checkpoint) -> None:
        """``before``: the weights that ``edit`` starts from."""
        self.edit, self.flow = edit, edit.flow
        self.samples_per_step = edit.samples_per_step + settings.judged_captions * settings.draws
        self.known = before.spec.tasks
        self.before = frozen_network(before, self.flow.loop) if edit.kept is None else edit.kept

    @property
    def network(self) -> nn.Module:
        return self.flow.network

    def sheet(self, ema: nn.Module) -> Tensor:
        """As the edit stage's."""
        return self.edit.sheet(ema)

    def write(self, folder: Path, ema: nn.Module) -> None:
        """Write the whole model; it knows the tasks that it knew, and those that this stage has rows of."""
        taught = [task for task, share in self.edit.settings.shares.items() if share > 0.0]
        tasks = tuple(task for task in TASKS if task in self.known or task in taught)
        own = [name for name in self.edit.stages if name in SELF_TAUGHT and name != self.name]
        earlier = [name for name in self.edit.stages if name not in ("edit", *SELF_TAUGHT)]
        edit = ["edit"] if tasks == TASKS else []
        self.flow.write(folder, ema, (*earlier, *edit, *own, self.name), tasks)
