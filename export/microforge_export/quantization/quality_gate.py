"""The check that an INT8 target of a bundle is good enough, and the name of what is at fault when it is not.

Everything is measured through the bundle's own files and the shipped runtime. A metric outside its limit ends
the build: the component at fault is found by quantizing one at a time, its operator group by bisection.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from microforge.bundle.files import Bundle
from microforge.errors import ParityError, SpecError
from microforge_export.checks.metrics import Metric, image_metrics
from microforge_export.checks.parity import psnr_db
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.quantization.base import QuantizableComponent, RecordedInputs
from microforge_export.quantization.calibration import RecordedSample, Run, record_sample, torch_runner
from microforge_export.quantization.quality import (
    MeasuredQuality,
    Reporter,
    at_fault,
    component_psnr,
    manifest_quality,
    measure_quality,
)
from microforge_export.quantization.registry import quantizable_factory
from microforge_export.recipes.int8_recipe import (
    Int8Recipe,
    Scheme,
    component_precision,
    float_scheme,
    resolve,
    role_schemes,
)
from microforge_runtimes import open_session

#: Samples that the component at fault is found with.
_SUSPECT_SAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What costs most: the operator group of a component; ``alone_db`` and ``without_db`` are the component's
    PSNR with only this group quantized and with every other. ``group`` is None where the target cannot say."""

    component: str
    group: str | None
    scheme: Scheme | None = None
    alone_db: float = 0.0
    without_db: float = 0.0


class QualityError(ParityError):
    """A quantized target that falls short: every metric, and what is at fault."""

    def __init__(self, target: str, metrics: Sequence[Metric], fault: Fault) -> None:
        self.target, self.metrics, self.fault = target, tuple(metrics), fault
        group = "" if fault.group is None else f", operator group {fault.group!r} ({fault.scheme})"
        problems = "; ".join(item.phrase() for item in metrics if not item.met)
        super().__init__(f"{target} in int8: {problems}; most is lost in {fault.component}{group}")


@dataclass(frozen=True)
class QualityEvidence:
    """What an INT8 target is measured with at one size: torch's samples, and its components and programs."""

    bundle: Bundle
    model: SourceModel
    components: Sequence[SourceComponent]  # of one size
    programs: Mapping[str, ExportedProgram]
    inputs: Mapping[str, RecordedInputs]
    requests: Sequence[SampleRequest]
    references: Sequence[RecordedSample]


@contextmanager
def bundle_runner(bundle: Bundle, target: str, components: Sequence[SourceComponent]) -> Iterator[Run]:
    """The artefacts of ``components`` in a bundle as a ``Run``."""
    with ExitStack() as stack:
        sessions = {}
        for item in components:
            sessions[item.role] = open_session(bundle, target, item.key)
            stack.callback(sessions[item.role].close)
        yield lambda role, inputs: sessions[role].run(inputs)


def require_quality(
    bundle: Bundle, recipe: Int8Recipe, evidence: QualityEvidence, report: Reporter = lambda _: None
) -> MeasuredQuality:
    """Quality of the bundle's files of one size.

    Raises:
        QualityError: when a limit of the recipe is missed.
    """
    with bundle_runner(bundle, recipe.target, evidence.components) as run:
        quality = measure_quality(
            evidence.model, evidence.components, run, evidence.requests, evidence.references, report
        )
        metrics = quality_metrics(quality, recipe)
        if all(item.met for item in metrics):
            return quality
        report("looking for what is at fault")
        suspect = _suspect(run, recipe, evidence, quality)
    raise QualityError(recipe.target, metrics, find_fault(recipe, evidence, suspect))


def quality_metrics(quality: MeasuredQuality, recipe: Int8Recipe) -> tuple[Metric, ...]:
    """Every metric of a quantized target with its limits: components, then whole images."""
    least = recipe.limits.component_psnr_db
    components = (
        Metric(what=f"PSNR of {role}", value=value, low=least, unit=" dB", digits=1)
        for role, value in quality.components.items()
    )
    return (*components, *image_metrics(manifest_quality(quality, recipe.limits)))


def _suspect(
    run: Run, recipe: Int8Recipe, evidence: QualityEvidence, quality: MeasuredQuality
) -> SourceComponent:
    """The component that loses most: the one below its own limit, else the one whose artefact alone, between
    torch's other modules, hurts images most."""
    quantized = [
        item for item in evidence.components if component_precision(recipe, item.role, item.family) == "int8"
    ]
    least = min(quantized or evidence.components, key=lambda item: quality.components[item.role])
    if quality.components[least.role] < recipe.limits.component_psnr_db or len(quantized) < 2:
        return least
    plain = torch_runner(evidence.components)

    def image_db(suspect: SourceComponent) -> float:
        mixed: Run = lambda role, inputs: (run if role == suspect.role else plain)(role, inputs)  # noqa: E731
        return sum(
            psnr_db(
                evidence.references[index].image,
                record_sample(
                    evidence.model, evidence.components, mixed, evidence.requests[index], keep_cases=False
                ).image,
            )
            for index in worst_samples(quality)
        )

    used = {stage.role for stage in evidence.bundle.manifest.stages()}
    return min((item for item in quantized if item.role in used), key=image_db, default=least)


def worst_samples(quality: MeasuredQuality) -> list[int]:
    """The samples that suspects are judged by: those that came out worst, since a limit may be missed by them alone."""
    order = sorted(range(len(quality.images)), key=quality.images.__getitem__)
    return order[:_SUSPECT_SAMPLES]


def find_fault(recipe: Int8Recipe, evidence: QualityEvidence, suspect: SourceComponent) -> Fault:
    """The operator group of ``suspect`` that costs most precision, where the target can try groups apart."""
    try:
        make = quantizable_factory(recipe.target)
    except SpecError:
        return Fault(component=suspect.key, group=None)
    with tempfile.TemporaryDirectory() as folder:
        draft = make(
            suspect, evidence.programs[suspect.key], evidence.inputs.get(suspect.key, ()), Path(folder)
        )
        schemes = resolve(role_schemes(recipe, suspect.role, suspect.family), draft.groups(), recipe.target)
        plain = float_scheme(recipe.target)
        quantized = {group: scheme for group, scheme in schemes.items() if scheme != plain}
        if not quantized:
            return Fault(component=suspect.key, group=None)
        group = worst_group(draft, quantized, evidence.references)
        others = {name: scheme for name, scheme in quantized.items() if name != group}
        return Fault(
            component=suspect.key, group=group, scheme=quantized[group],
            alone_db=draft_psnr(draft, {group: quantized[group]}, evidence.references),
            without_db=draft_psnr(draft, others, evidence.references),
        )  # fmt: skip


def worst_group(
    draft: QuantizableComponent, schemes: Mapping[str, Scheme], references: Sequence[RecordedSample]
) -> str:
    """The group among ``schemes`` (all quantized) that costs most precision, by bisection."""
    return at_fault(
        list(schemes),
        lambda groups: draft_psnr(draft, {group: schemes[group] for group in groups}, references),
    )


def draft_psnr(
    draft: QuantizableComponent, schemes: Mapping[str, Scheme], references: Sequence[RecordedSample]
) -> float:
    """PSNR of a component under ``schemes``, over the evaluations of the first reference sample."""
    with draft.candidate(schemes) as trial:
        return component_psnr(
            lambda _, inputs: trial.session.run(inputs), draft.component.role, references[:1]
        )
