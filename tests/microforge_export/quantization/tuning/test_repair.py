"""Repairing a choice of schemes: one group gives way where that is enough, the cheapest first; else precision counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from microforge.bundle.manifest import Role
from microforge.errors import ParityError
from microforge_export.quantization.quality import MeasuredQuality
from microforge_export.quantization.tuning import repair as tune_repair
from microforge_export.quantization.tuning.candidates import AssembledCandidates, ComponentBench
from microforge_export.quantization.tuning.choice import Schemes, TuningSettings
from microforge_export.quantization.tuning.repair import alternatives, repair
from microforge_export.recipes.int8_recipe import CandidateScheme, MeasuredCandidate, Scheme

Judge = Callable[[Mapping[Role, Schemes]], tuple[float, ...]]
GROUPS: Mapping[str, tuple[Scheme, ...]] = {
    "matmul a": ("weight-only", "dynamic"),
    "matmul b": ("weight-only", "dynamic"),
}


def row(group: str, scheme: CandidateScheme, milliseconds: float, size: int = 1) -> MeasuredCandidate:
    return MeasuredCandidate(
        component="denoiser", group=group, scheme=scheme, psnr_db=40.0, milliseconds=milliseconds,
        fp32_milliseconds=10.0, bytes=size, fp32_bytes=4,
    )  # fmt: skip


class QuantizableComponent:
    """Two groups; whatever is made of them is the same."""

    def __init__(self) -> None:
        self.component: Any = SimpleNamespace(role="denoiser")

    def groups(self) -> Mapping[str, tuple[Scheme, ...]]:
        return GROUPS

    def candidate(self, schemes: Mapping[str, Scheme], threads: int | None = None) -> Any:
        return nullcontext(None)


class Drawn(AssembledCandidates):
    """Images whose PSNR ``judge`` tells from the schemes alone."""

    def __init__(self, judge: Judge) -> None:
        bench = ComponentBench(QuantizableComponent(), (), TuningSettings(), "onnx")
        super().__init__(None, (), [None] * 4, (), [bench])  # type: ignore[arg-type, list-item]
        self.judge = judge

    def measure(self, schemes: Mapping[Role, Schemes]) -> MeasuredQuality:
        return MeasuredQuality(
            components={"denoiser": 40.0}, images=self.judge(schemes), survival=1.0, plan_drift=0.0
        )

    def image_db(self, schemes: Mapping[Role, Schemes], index: int) -> float:
        return self.judge(schemes)[index]


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """``matmul a`` is always the group that costs most precision."""
    monkeypatch.setattr(
        ComponentBench, "row", lambda self, plain, group, scheme, schemes: row("all", "mixed", 7.0)
    )
    monkeypatch.setattr(
        tune_repair, "worst_group", lambda draft, quantized, references: next(iter(sorted(quantized)))
    )


def repaired(judge: Judge) -> tuple[Schemes, list[MeasuredCandidate]]:
    rows: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [
            row("matmul a", "dynamic", 5.0), row("matmul a", "weight-only", 9.0),
            row("matmul b", "dynamic", 5.0), row("matmul b", "weight-only", 6.0),
        ]
    }  # fmt: skip
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    repair(Drawn(judge), rows, schemes, lambda _: None)
    return schemes["denoiser"], rows["denoiser"]


def test_repair_leaves_what_meets_the_limits() -> None:
    schemes, rows = repaired(lambda _: (40.0, 40.0, 40.0, 25.0))
    assert set(schemes.values()) == {"dynamic"} and len(rows) == 4


def test_repair_makes_the_cheapest_group_that_helps_more_precise() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        return (40.0, 40.0, 40.0, 18.0 if set(schemes["denoiser"].values()) == {"dynamic"} else 25.0)

    schemes, rows = repaired(judge)
    assert schemes == {"matmul a": "dynamic", "matmul b": "weight-only"}, "b loses less time than a"
    assert rows[-1].scheme == "mixed" and rows[-1].group == "all"


def test_repair_passes_over_a_group_that_spoils_another_image() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        a, b = schemes["denoiser"]["matmul a"], schemes["denoiser"]["matmul b"]
        other = 12.0 if b == "weight-only" and a == "dynamic" else 40.0
        return (other, 40.0, 40.0, 18.0 if a == b == "dynamic" else 25.0)

    assert repaired(judge)[0] == {"matmul a": "weight-only", "matmul b": "dynamic"}


def test_repair_does_not_try_groups_of_a_component_that_leaves_the_image_as_it_is() -> None:
    tried: list[Schemes] = []

    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        tried.append(schemes["denoiser"])
        return (40.0, 40.0, 40.0, 18.0)

    with pytest.raises(ParityError):
        repaired(judge)
    assert {"matmul a": "dynamic", "matmul b": "weight-only"} not in tried


def test_repair_goes_by_precision_where_many_images_fail() -> None:
    def judge(schemes: Mapping[Role, Schemes]) -> tuple[float, ...]:
        poor = schemes["denoiser"]["matmul a"] != "fp32"
        return (18.0, 18.0, 18.0, 18.0) if poor else (40.0, 40.0, 40.0, 40.0)

    assert repaired(judge)[0] == {"matmul a": "fp32", "matmul b": "dynamic"}


def test_repair_gives_up_when_floating_point_falls_short() -> None:
    with pytest.raises(ParityError, match="not even fp32 meets the limits"):
        repaired(lambda _: (40.0, 40.0, 40.0, 18.0))


def test_alternatives_come_in_the_order_of_the_time_they_cost() -> None:
    rows: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [row("matmul a", "dynamic", 9.5), row("matmul b", "dynamic", 5.0)]
    }
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    found = list(alternatives(Drawn(lambda _: ()).benches, rows, schemes))
    assert found == [("denoiser", "matmul a", "weight-only"), ("denoiser", "matmul b", "weight-only")]


def test_alternatives_that_cost_no_time_come_in_the_order_of_the_bytes_they_add() -> None:
    rows: dict[Role, list[MeasuredCandidate]] = {
        "denoiser": [
            row("matmul a", "dynamic", 9.99, 100), row("matmul a", "weight-only", 9.99, 300),
            row("matmul b", "dynamic", 9.98, 100), row("matmul b", "weight-only", 9.99, 120),
        ]
    }  # fmt: skip
    schemes: dict[Role, Schemes] = {"denoiser": {"matmul a": "dynamic", "matmul b": "dynamic"}}
    found = [group for _, group, _ in alternatives(Drawn(lambda _: ()).benches, rows, schemes)]
    assert found == ["matmul b", "matmul a"]
