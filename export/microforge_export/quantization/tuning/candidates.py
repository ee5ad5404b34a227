"""Where the candidates of a tuning run are measured: one component at a time, and whole drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from microforge.bundle.manifest import Role
from microforge.bundle.targets import TargetName
from microforge_export.checks.golden import Array
from microforge_export.checks.parity import psnr_db
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.base import CandidateSession, QuantizableComponent
from microforge_export.quantization.calibration import Roll, roll
from microforge_export.quantization.quality import MeasuredQuality, component_psnr, measure_quality
from microforge_export.quantization.tuning.choice import Schemes, TuningSettings
from microforge_export.quantization.tuning.timing import interleaved
from microforge_export.recipes.build_recipe import SampleRequest
from microforge_export.recipes.int8_recipe import MeasuredCandidate, Scheme


@dataclass(frozen=True)
class ComponentBench:
    """Where candidates of one component are measured."""

    draft: QuantizableComponent
    references: Sequence[Roll]
    effort: TuningSettings
    target: TargetName

    @property
    def role(self) -> Role:
        return self.draft.component.role

    def plain(self) -> AbstractContextManager[CandidateSession]:
        """The component in floating point, which every candidate is timed against."""
        return self.draft.candidate({}, self.effort.threads)

    def row(
        self, plain: CandidateSession, group: str, scheme: Scheme | None, schemes: Mapping[str, Scheme]
    ) -> MeasuredCandidate:
        """Error, time and bytes of the component under ``schemes``; ``scheme`` None is a mixture."""
        named, effort = scheme or "mixed", self.effort
        with self.draft.candidate(schemes, effort.threads) as ours:
            psnr = component_psnr(lambda _, inputs: ours.session.run(inputs), self.role, self.references[:1])
            example = self.references[0].cases[self.role][0].inputs
            taken = (0.0, 0.0)
            if effort.measured is not None:
                taken = effort.measured.get((self.role, group, named), taken)
            elif effort.rounds:
                calls = [lambda: ours.session.run(example), lambda: plain.session.run(example)]
                first, second = interleaved(calls, effort.rounds)
                taken = (first, second)
            return MeasuredCandidate(
                component=self.role, group=group, scheme=named, psnr_db=psnr, milliseconds=round(taken[0], 4),
                fp32_milliseconds=round(taken[1], 4), bytes=ours.bytes, fp32_bytes=plain.bytes,
            )  # fmt: skip


class AssembledCandidates:
    """All components together, and what whole images are judged by.

    A component is made once per choice of schemes and stays loaded until it gets another one.
    """

    def __init__(
        self, model: SourceModel, components: Sequence[SourceComponent], requests: Sequence[SampleRequest], references: Sequence[Roll],
        benches: Sequence[ComponentBench],
    ) -> None:  # fmt: skip
        self.model, self.components, self.requests, self.references = model, components, requests, references
        self.benches = {bench.role: bench for bench in benches}
        self._loaded: dict[Role, tuple[Schemes, CandidateSession, ExitStack]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, stack in self._loaded.values():
            stack.close()

    @property
    def effort(self) -> TuningSettings:
        return next(iter(self.benches.values())).effort

    @property
    def target(self) -> TargetName:
        return next(iter(self.benches.values())).target

    def measure(self, schemes: Mapping[Role, Schemes]) -> MeasuredQuality:
        """Everything that a recipe has limits on."""
        self._load(schemes)
        return measure_quality(self.model, self.components, self._run, self.requests, self.references)

    def image_db(self, schemes: Mapping[Role, Schemes], index: int) -> float:
        """PSNR of one drawing."""
        self._load(schemes)
        drawn = roll(self.model, self.components, self._run, self.requests[index], keep_cases=False)
        return psnr_db(self.references[index].image, drawn.image)

    def _load(self, schemes: Mapping[Role, Schemes]) -> None:
        for role, bench in self.benches.items():
            if role in self._loaded and self._loaded[role][0] == schemes[role]:
                continue
            if role in self._loaded:
                self._loaded.pop(role)[2].close()
            stack = ExitStack()
            self._loaded[role] = (
                dict(schemes[role]),
                stack.enter_context(bench.draft.candidate(schemes[role])),
                stack,
            )

    def _run(self, role: Role, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._loaded[role][1].session.run(inputs)
