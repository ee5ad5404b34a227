"""Typed stages: the order is checked before anything runs, and values reach the stages that ask for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest

from microforge.bundle.targets import TargetName
from microforge_export.build.stages import (
    BuildStage,
    PerTarget,
    StageProgress,
    StageSeconds,
    StageValues,
    check_order,
    run_stages,
)


@dataclass(frozen=True)
class Flour:
    grams: int


@dataclass(frozen=True)
class Dough:
    grams: int


@dataclass(frozen=True)
class Loaves(PerTarget[int]):
    pass


def knead(flour: Flour) -> Dough:
    return Dough(flour.grams * 2)


def bake(target: TargetName, dough: Dough) -> Loaves:
    return Loaves({target: dough.grams})


def taste(loaves: Loaves) -> None:
    assert loaves.by_target


KNEAD = BuildStage("knead", knead)
BAKE_ONNX = BuildStage("bake for onnx", functools.partial(bake, "onnx"))
BAKE_COREML = BuildStage("bake for coreml", functools.partial(bake, "coreml"))


def test_a_signature_declares_inputs_and_output() -> None:
    assert (KNEAD.inputs, KNEAD.output) == ((Flour,), Dough)
    assert (BAKE_ONNX.inputs, BAKE_ONNX.output) == ((Dough,), Loaves), "bound parameters are no inputs"
    assert BuildStage("taste", taste).output is None


def test_a_missing_input_is_refused_before_the_first_stage_runs() -> None:
    def fail(flour: Flour) -> Flour:
        raise AssertionError("ran")

    stages = (BuildStage("fail", fail), BAKE_ONNX)
    with pytest.raises(ValueError, match="stage 'bake for onnx' needs Dough, which no earlier stage returns"):
        run_stages(stages, StageValues(Flour(1)))


def test_a_released_value_is_gone_for_later_stages() -> None:
    stages = (BuildStage("knead", knead, releases=(Flour,)), KNEAD)
    with pytest.raises(ValueError, match="needs Flour"):
        check_order(stages, frozenset({Flour}))
    values = run_stages(stages[:1], StageValues(Flour(1)))
    assert values.get(Dough) == Dough(2)
    with pytest.raises(LookupError, match="returned a Flour"):
        values.get(Flour)


def test_values_of_several_targets_are_collected() -> None:
    values = run_stages((KNEAD, BAKE_ONNX, BAKE_COREML, BuildStage("taste", taste)), StageValues(Flour(3)))
    assert values.get(Loaves) == Loaves({"onnx": 6, "coreml": 6})


def test_progress_and_seconds_reach_every_stage() -> None:
    def log(progress: StageProgress, seconds: StageSeconds) -> None:
        progress.report(", ".join(seconds.by_stage))

    calls: list[tuple[int, int, str]] = []
    stages = (KNEAD, BuildStage("log", log))
    values = run_stages(stages, StageValues(Flour(1)), lambda *call: calls.append(call))
    assert calls == [(1, 2, "knead"), (2, 2, "log"), (2, 2, "log: knead")]
    assert list(values.get(StageSeconds).by_stage) == ["knead", "log"]
