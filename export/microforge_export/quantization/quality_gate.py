"""The check that an INT8 target of a bundle is good enough, and the name of what is at fault when it is not.

Everything is measured through the bundle's own files and the shipped runtime. A figure outside its limit ends
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
from microforge.bundle.manifest import Role
from microforge.errors import ParityError, SpecError
from microforge_export.checks.figures import Figure, image_figures
from microforge_export.checks.parity import psnr_db
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.quantization.base import QuantizableComponent, RecordedInputs
from microforge_export.quantization.calibration import Roll, Run, roll, torch_runner
from microforge_export.quantization.quality import (
    MeasuredQuality,
    Reporter,
    at_fault,
    component_psnr,
    manifest_quality,
    measure_quality,
)
from microforge_export.quantization.registry import quantizable_factory
from microforge_export.recipes.build_recipe import SampleRequest
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
_SUSPECT_DRAWINGS = 2


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
    """A quantized target that falls short: every figure, and what is at fault."""

    def __init__(self, target: str, figures: Sequence[Figure], fault: Fault) -> None:
        self.target, self.figures, self.fault = target, tuple(figures), fault
        group = "" if fault.group is None else f", operator group {fault.group!r} ({fault.scheme})"
        problems = "; ".join(item.phrase() for item in figures if not item.met)
        super().__init__(f"{target} in int8: {problems}; most is lost in {fault.component}{group}")


@dataclass(frozen=True)
class QualityEvidence:
    """What an INT8 target is measured with at one size: torch's drawings, and its components and programs."""

    model: SourceModel
    components: Sequence[SourceComponent]  # of one size
    programs: Mapping[str, ExportedProgram]
    inputs: Mapping[str, RecordedInputs]
    requests: Sequence[SampleRequest]
    references: Sequence[Roll]


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
        figures = quality_figures(quality, recipe)
        if all(item.met for item in figures):
            return quality
        report("looking for what is at fault")
        suspect = _suspect(run, recipe, evidence, quality)
    raise QualityError(recipe.target, figures, find_fault(recipe, evidence, suspect))


def quality_figures(quality: MeasuredQuality, recipe: Int8Recipe) -> tuple[Figure, ...]:
    """Every figure of a quantized target with its limits: components, then whole images."""
    least = recipe.limits.component_psnr_db
    components = (
        Figure(what=f"PSNR of {role}", value=value, low=least, unit=" dB", digits=1)
        for role, value in quality.components.items()
    )
    return (*components, *image_figures(manifest_quality(quality, recipe.limits)))


def _suspect(
    run: Run, recipe: Int8Recipe, evidence: QualityEvidence, quality: MeasuredQuality
) -> SourceComponent:
    """The component that loses most: the one below its own limit, else the one whose artefact alone, between
    torch's other modules, hurts images most."""
    quantized = [item for item in evidence.components if component_precision(recipe, item.role) == "int8"]
    least = min(quantized or evidence.components, key=lambda item: quality.components[item.role])
    if quality.components[least.role] < recipe.limits.component_psnr_db or len(quantized) < 2:
        return least
    plain = torch_runner(evidence.components)

    def image_db(suspect: SourceComponent) -> float:
        mixed: Run = lambda role, inputs: (run if role == suspect.role else plain)(role, inputs)  # noqa: E731
        return sum(
            psnr_db(
                evidence.references[index].image,
                roll(
                    evidence.model, evidence.components, mixed, evidence.requests[index], keep_cases=False
                ).image,
            )
            for index in worst_drawings(quality)
        )

    drawn: tuple[Role, ...] = ("text_encoder", "denoiser", "vae_decoder")
    return min((item for item in quantized if item.role in drawn), key=image_db, default=least)


def worst_drawings(quality: MeasuredQuality) -> list[int]:
    """The drawings that suspects are judged by: those that came out worst, since a limit may be missed by them alone."""
    order = sorted(range(len(quality.images)), key=quality.images.__getitem__)
    return order[:_SUSPECT_DRAWINGS]


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
        schemes = resolve(role_schemes(recipe, suspect.role), draft.groups(), recipe.target)
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
    draft: QuantizableComponent, schemes: Mapping[str, Scheme], references: Sequence[Roll]
) -> str:
    """The group among ``schemes`` (all quantized) that costs most precision, by bisection."""
    return at_fault(
        list(schemes),
        lambda groups: draft_psnr(draft, {group: schemes[group] for group in groups}, references),
    )


def draft_psnr(
    draft: QuantizableComponent, schemes: Mapping[str, Scheme], references: Sequence[Roll]
) -> float:
    """PSNR of a component under ``schemes``, over the evaluations of the first reference drawing."""
    with draft.candidate(schemes) as trial:
        return component_psnr(
            lambda _, inputs: trial.session.run(inputs), draft.component.role, references[:1]
        )
