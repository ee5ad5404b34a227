"""Stages of a build as typed functions, and the check of their order.

The parameter types of a stage's function are its inputs and its return type is its output, so a type checker
verifies every access, and ``check_order`` refuses a list in which a stage needs a value that no earlier stage
returns, before anything runs. Values are frozen dataclasses, one class per kind of value.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar

from microforge.bundle.targets import TargetName

#: Progress callback (1-based index, total, stage name), called before each stage and while a long one runs.
ProgressCallback = Callable[[int, int, str], None]
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class PerTarget(Generic[ValueT]):
    """One value per target. The outputs of the stages of several targets are collected in one mapping."""

    by_target: Mapping[TargetName, ValueT]

    def merged(self, earlier: Self) -> Self:
        """The values of ``earlier`` and of this one, which wins."""
        return replace(self, by_target={**earlier.by_target, **self.by_target})


@dataclass(frozen=True)
class StageProgress:
    """An input that every stage can ask for: it reports what the stage is working on."""

    report: Callable[[str], None]


@dataclass(frozen=True)
class StageSeconds:
    """An input that every stage can ask for: the duration of each finished stage, in seconds, by its name."""

    by_stage: Mapping[str, float] = field(default_factory=dict)


_ALWAYS_GIVEN: frozenset[type] = frozenset({StageProgress, StageSeconds})


@dataclass(frozen=True)
class BuildStage:
    """A named function of typed values. The values of the classes in ``releases`` are dropped after it ran."""

    name: str
    run: Callable[..., object]
    releases: tuple[type, ...] = ()

    @property
    def inputs(self) -> tuple[type, ...]:
        """The parameter types of ``run``, without those that are bound already."""
        return tuple(item.annotation for item in self._signature().parameters.values())

    @property
    def output(self) -> type | None:
        """The return type of ``run``; None for a stage that only checks."""
        annotation = self._signature().return_annotation
        return annotation if isinstance(annotation, type) else None

    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.run, eval_str=True)


class StageValues:
    """The values that stages have returned so far, at most one of each class."""

    def __init__(self, *values: object) -> None:
        self._values: dict[type, object] = {type(value): value for value in values}

    def get(self, kind: type[ValueT]) -> ValueT:
        """The value of the class ``kind``.

        Raises:
            LookupError: if no stage has returned one.
        """
        value = self._values.get(kind)
        if not isinstance(value, kind):
            raise LookupError(f"no stage has returned a {kind.__name__}")
        return value

    def kinds(self) -> frozenset[type]:
        """The classes of all values."""
        return frozenset(self._values)

    def add(self, value: object) -> None:
        """Store ``value``; values per target are merged with those of earlier targets."""
        earlier = self._values.get(type(value))
        if isinstance(value, PerTarget) and isinstance(earlier, PerTarget):
            value = value.merged(earlier)
        self._values[type(value)] = value

    def release(self, kinds: Sequence[type]) -> None:
        """Forget the values of these classes, so that their memory can be freed."""
        for kind in kinds:
            self._values.pop(kind, None)


def check_order(stages: Sequence[BuildStage], available: frozenset[type]) -> None:
    """Refuse a list of stages in which one needs a value that is not available when its turn comes.

    Args:
        stages: in the order in which they are to run.
        available: classes of the values that exist before the first stage.

    Raises:
        ValueError: names the stage and the class that it lacks.
    """
    known = set(available | _ALWAYS_GIVEN)
    for stage in stages:
        for kind in stage.inputs:
            if kind not in known:
                raise ValueError(
                    f"stage {stage.name!r} needs {kind.__name__}, which no earlier stage returns"
                )
        if stage.output is not None:
            known.add(stage.output)
        known -= set(stage.releases)


def run_stages(
    stages: Sequence[BuildStage], values: StageValues, progress: ProgressCallback = lambda *_: None
) -> StageValues:
    """Run ``stages`` on ``values`` and return all values; the order is checked before the first stage runs.

    Raises:
        ValueError: as ``check_order``.
    """
    check_order(stages, values.kinds())
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, 1):
        progress(number, len(stages), stage.name)
        values.add(StageProgress(_within(progress, number, len(stages), stage.name)))
        values.add(StageSeconds(dict(seconds)))
        start = time.perf_counter()
        output = stage.run(*(values.get(kind) for kind in stage.inputs))
        if output is not None:
            values.add(output)
        values.release(stage.releases)
        seconds[stage.name] = round(time.perf_counter() - start, 3)
    values.add(StageSeconds(seconds))
    return values


def _within(progress: ProgressCallback, number: int, count: int, name: str) -> Callable[[str], None]:
    return lambda detail: progress(number, count, f"{name}: {detail}")
