"""The folder of a run: two runs are never mixed in it, and nothing is overwritten without ``--force``."""

from __future__ import annotations

import shutil
from pathlib import Path

from microforge.errors import CheckpointError, OutputExistsError
from microforge.training.engine.loop import BEST
from microforge.training.engine.state import STATE, RunIdentity, check_identity
from microforge.training.runs.plan import CHECKPOINT

#: Entries that ``--force`` preserves: caches say themselves what they were computed from.
CACHES = ("latents", "judged", "triples", "trajectories", "cache")
#: The last and the best checkpoint of a run.
CHECKPOINTS = (CHECKPOINT, BEST)


def check_run_folder(
    folder: Path, identity: RunIdentity, resume: bool, force: bool, begun: bool = False
) -> None:
    """Check that a run may write to ``folder``: an existing state needs --resume and must match, or --force.

    Args:
        folder: The run's folder.
        identity: The run.
        resume: Whether to continue the run in the folder.
        force: Whether to discard it.
        begun: Whether there is something to resume although no state was saved yet.

    Raises:
        CheckpointError: when there is nothing to resume, or the state belongs to another run.
        OutputExistsError: when there is a state and neither option is given.
    """
    exists = (folder / STATE).is_file()
    if resume and not exists and not begun:
        raise CheckpointError(f"nothing to resume: {folder / STATE} does not exist; leave out --resume")
    if exists and resume:
        check_identity(folder, identity)
    elif exists and not force:
        raise OutputExistsError(
            f"{folder} holds a run; --resume continues it, --force discards it and starts over"
        )


def clear_run(folder: Path) -> None:
    """Discard the run in ``folder`` and preserve its caches.

    Its checkpoints stay until the first ones of the new run replace them, so that there is a whole one at any moment. The
    state goes last: a run whose removal was killed is still recognised as one.
    """
    if not (folder / STATE).is_file():
        return
    for entry in folder.iterdir():
        if entry.name.startswith(CACHES) or entry.name in (STATE, *CHECKPOINTS):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    (folder / STATE).unlink()
