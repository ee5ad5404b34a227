"""Measures candidates of a tuning run: one component at a time, and all components together on whole images."""

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
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.quantization.base import CandidateSession, QuantizableComponent
from microforge_export.quantization.calibration import RecordedSample, record_sample
from microforge_export.quantization.quality import MeasuredQuality, component_psnr, measure_quality
from microforge_export.quantization.tuning.choice import Schemes, TuningSettings
from microforge_export.quantization.tuning.timing import interleaved
from microforge_export.recipes.int8_recipe import MeasuredCandidate, Scheme


@dataclass(frozen=True)
class ComponentBench:
    """Measures candidates of one component."""

    quantizable: QuantizableComponent
    references: Sequence[RecordedSample]
    settings: TuningSettings
    target: TargetName

    @property
    def evaluations(self) -> int:
        """Evaluations of the component per image; 1 where no sample was recorded."""
        return max(1, len(self.references[0].cases.get(self.role, ()))) if self.references else 1

    @property
    def role(self) -> Role:
        """The role of the component."""
        return self.quantizable.component.role

    def open_float(self) -> AbstractContextManager[CandidateSession]:
        """The component in floating point, which every candidate is timed against."""
        return self.quantizable.candidate({}, self.settings.threads)

    def measure(
        self, floating: CandidateSession, group: str, scheme: Scheme | None, schemes: Mapping[str, Scheme]
    ) -> MeasuredCandidate:
        """Error, time and bytes of the component under ``schemes``.

        Args:
            floating: the component in floating point.
            group: operator group that the result is recorded for.
            scheme: scheme that the result is recorded for; None for a mixture.
            schemes: schemes of all quantized groups.
        """
        name = scheme or "mixed"
        with self.quantizable.candidate(schemes, self.settings.threads) as quantized:
            psnr = component_psnr(
                lambda _, inputs: quantized.session.run(inputs), self.role, self.references[:1]
            )
            milliseconds, float_milliseconds = 0.0, 0.0
            if self.settings.measured is not None:
                key = (self.role, group, name)
                milliseconds, float_milliseconds = self.settings.measured.get(key, (0.0, 0.0))
            elif self.settings.rounds:
                example = self.references[0].cases[self.role][0].inputs
                calls = [lambda: quantized.session.run(example), lambda: floating.session.run(example)]
                milliseconds, float_milliseconds = interleaved(calls, self.settings.rounds)
            return MeasuredCandidate(
                component=self.role, group=group, scheme=name, psnr_db=psnr, milliseconds=round(milliseconds, 4),
                fp32_milliseconds=round(float_milliseconds, 4), bytes=quantized.bytes, fp32_bytes=floating.bytes,
            )  # fmt: skip


class AssembledCandidates:
    """All components together, each under some schemes, to measure whole images.

    A component is lowered once per choice of schemes and stays loaded until its schemes change. Use it as a
    context manager.
    """

    def __init__(
        self, model: SourceModel, components: Sequence[SourceComponent], requests: Sequence[SampleRequest],
        references: Sequence[RecordedSample], benches: Sequence[ComponentBench],
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
    def settings(self) -> TuningSettings:
        """The settings of the run."""
        return next(iter(self.benches.values())).settings

    @property
    def target(self) -> TargetName:
        """The engine."""
        return next(iter(self.benches.values())).target

    def measure(self, schemes: Mapping[Role, Schemes]) -> MeasuredQuality:
        """Measure everything that a recipe limits."""
        self._load(schemes)
        return measure_quality(self.model, self.components, self._run, self.requests, self.references)

    def image_db(self, schemes: Mapping[Role, Schemes], index: int) -> float:
        """PSNR of the image of one request, by its index, in dB."""
        self._load(schemes)
        sample = record_sample(self.model, self.components, self._run, self.requests[index], keep_cases=False)
        return psnr_db(self.references[index].image, sample.image)

    def _load(self, schemes: Mapping[Role, Schemes]) -> None:
        for role, bench in self.benches.items():
            if role in self._loaded and self._loaded[role][0] == schemes[role]:
                continue
            if role in self._loaded:
                self._loaded.pop(role)[2].close()
            stack = ExitStack()
            session = stack.enter_context(bench.quantizable.candidate(schemes[role]))
            self._loaded[role] = (dict(schemes[role]), session, stack)

    def _run(self, role: Role, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._loaded[role][1].session.run(inputs)
