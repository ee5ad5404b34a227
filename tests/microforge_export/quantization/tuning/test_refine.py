"""Refining a choice of schemes: one group is relaxed if that is enough, the cheapest first; else precision decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from microforge.bundle.manifest import Role
from microforge.errors import ParityError
from microforge_export.quantization.quality import MeasuredQuality
from microforge_export.quantization.tuning import refine as refinement
from microforge_export.quantization.tuning.candidates import AssembledCandidates, ComponentBench
from microforge_export.quantization.tuning.choice import Schemes, TuningSettings
from microforge_export.quantization.tuning.refine import refine, relaxations
from microforge_export.recipes.int8_recipe import CandidateScheme, MeasuredCandidate, Scheme

Judge = Callable[[Mapping[Role, Schemes]], tuple[float, ...]]
GROUPS: Mapping[str, tuple[Scheme, ...]] = {
    "matmul a": ("weight-only", "dynamic"),
    "matmul b": ("weight-only", "dynamic"),
}


def candidate(group: str, scheme: CandidateScheme, milliseconds: float, size: int = 1) -> MeasuredCandidate:
    return MeasuredCandidate(
        component="denoiser", group=group, scheme=scheme, psnr_db=40.0, milliseconds=milliseconds,
        fp32_milliseconds=10.0, bytes=size, fp32_bytes=4,
    )  # fmt: skip


class TwoGroups:
    """A component of two operator groups whose candidates are all alike."""

    def __init__(self) -> None:
        self.component: Any = SimpleNamespace(role="denoiser")

    def groups(self) -> Mapping[str, tuple[Scheme, ...]]:
        return GROUPS

    def candidate(self, schemes: Mapping[str, Scheme], threads: int | None = None) -> Any:
        return nullcontext(None)


class ScriptedImages(AssembledCandidates):
    """Images whose PSNR ``judge`` computes from the schemes alone."""

    def __init__(self, judge: Judge) -> None:
        bench = ComponentBench(TwoGroups(), (), TuningSettings(), "onnx")
        super().__init__(None, (), [None] * 4, (), [bench])  # type: ignore[arg-type, list-item]
        self.judge = judge

    def measure(self, schemes: Mapping[Role, Schemes]) -> MeasuredQuality:
        return MeasuredQuality(
            components={"denoiser": 40.0},
            images=self.judge(schemes),
            guidance_norm_ratio=1.0,
            state_drift=0.0,
        )

    def image_db(self, schemes: Mapping[Role, Schemes], index: int) -> float:
        return self.judge(schemes)[index]


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """``matmul a`` is always the group that costs most precision."""
    monkeypatch.setattr(
        ComponentBench,
        "measure",
        lambda self, floating, group, scheme, schemes: candidate("all", "mixed", 7.0),
    )
    monkeypatch.setattr(
        refinement, "worst_group", lambda quantizable, quantized, references: next(iter(sorted(quantized)))
    )


def refined(judge: Judge) -> tuple[Schemes, list[MeasuredCandidate]]:
    candidates: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [
            candidate("matmul a", "dynamic", 5.0), candidate("matmul a", "weight-only", 9.0),
            candidate("matmul b", "dynamic", 5.0), candidate("matmul b", "weight-only", 6.0),
        ]
    }  # fmt: skip
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    refine(ScriptedImages(judge), candidates, schemes, lambda _: None)
    return schemes["denoiser"], candidates["denoiser"]


def test_refine_leaves_a_choice_within_the_limits() -> None:
    schemes, candidates = refined(lambda _: (40.0, 40.0, 40.0, 25.0))
    assert set(schemes.values()) == {"dynamic"} and len(candidates) == 4


def test_refine_relaxes_the_cheapest_group_that_helps() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        return (40.0, 40.0, 40.0, 18.0 if set(schemes["denoiser"].values()) == {"dynamic"} else 25.0)

    schemes, candidates = refined(judge)
    assert schemes == {"matmul a": "dynamic", "matmul b": "weight-only"}, "b loses less time than a"
    assert candidates[-1].scheme == "mixed" and candidates[-1].group == "all"


def test_refine_skips_a_group_that_spoils_another_image() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        a, b = schemes["denoiser"]["matmul a"], schemes["denoiser"]["matmul b"]
        other = 12.0 if b == "weight-only" and a == "dynamic" else 40.0
        return (other, 40.0, 40.0, 18.0 if a == b == "dynamic" else 25.0)

    assert refined(judge)[0] == {"matmul a": "weight-only", "matmul b": "dynamic"}


def test_refine_skips_components_that_do_not_change_the_failing_image() -> None:
    tried: list[Schemes] = []

    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        tried.append(schemes["denoiser"])
        return (40.0, 40.0, 40.0, 18.0)

    with pytest.raises(ParityError):
        refined(judge)
    assert {"matmul a": "dynamic", "matmul b": "weight-only"} not in tried


def test_refine_relaxes_the_costliest_group_if_many_images_fail() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        poor = schemes["denoiser"]["matmul a"] != "fp32"
        return (18.0, 18.0, 18.0, 18.0) if poor else (40.0, 40.0, 40.0, 40.0)

    assert refined(judge)[0] == {"matmul a": "fp32", "matmul b": "dynamic"}


def test_refine_gives_up_if_floating_point_misses_a_limit() -> None:
    with pytest.raises(ParityError, match="not even fp32 meets the limits"):
        refined(lambda _: (40.0, 40.0, 40.0, 18.0))


def test_relaxations_are_ordered_by_the_time_they_cost() -> None:
    candidates: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [candidate("matmul a", "dynamic", 9.5), candidate("matmul b", "dynamic", 5.0)]
    }
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    order = list(relaxations(ScriptedImages(lambda _: ()).benches, candidates, schemes))
    assert order == [("denoiser", "matmul a", "weight-only"), ("denoiser", "matmul b", "weight-only")]


def test_relaxations_of_equal_time_are_ordered_by_the_bytes_they_add() -> None:
    candidates: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [
            candidate("matmul a", "dynamic", 9.99, 100), candidate("matmul a", "weight-only", 9.99, 300),
            candidate("matmul b", "dynamic", 9.98, 100), candidate("matmul b", "weight-only", 9.99, 120),
        ]
    }  # fmt: skip
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    order = [group for _, group, _ in relaxations(ScriptedImages(lambda _: ()).benches, candidates, schemes)]
    assert order == ["matmul b", "matmul a"]
