"""Chooses an INT8 scheme for every operator group by measurement: error, time and bytes of every candidate.

Each component is measured with one scheme everywhere, and then group by group with the others in floating point.
A group gets the fastest scheme that keeps its component within the limit. Groups that win alone need not win
together, so their combination is measured too (scheme ``mixed``), and the component takes the best of all. If whole
images then miss a limit, groups are relaxed until the limits hold (``refine``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from microforge.bundle.manifest import Role
from microforge.bundle.targets import TargetName
from microforge.streams import FixedSeed
from microforge_export.components.component import SourceComponent, SourceModel, trace
from microforge_export.quantization.base import CandidateSession
from microforge_export.quantization.calibration import (
    RecordedSample,
    calibration_inputs,
    record_sample,
    sample_requests,
    torch_runner,
)
from microforge_export.quantization.quality import MeasuredQuality, Reporter, reference_samples
from microforge_export.quantization.registry import quantizable_factory
from microforge_export.quantization.tuning.candidates import AssembledCandidates, ComponentBench
from microforge_export.quantization.tuning.choice import (
    Schemes,
    TuningSettings,
    best_of_component,
    choose,
    mark_chosen,
)
from microforge_export.quantization.tuning.refine import refine, relax
from microforge_export.quantization.tuning.timing import this_host
from microforge_export.recipes.int8_recipe import (
    SCHEMES,
    Int8Recipe,
    MeasuredCandidate,
    Scheme,
    fitting,
    float_scheme,
    resolve,
    role_schemes,
)


def tune(
    model: SourceModel, components: Sequence[SourceComponent], target: TargetName, name: str,
    settings: TuningSettings, report: Reporter = lambda _: None, start: Int8Recipe | None = None,
) -> tuple[Int8Recipe, MeasuredQuality]:  # fmt: skip
    """Choose a recipe and measure the quality of its result.

    Args:
        model: the model, in PyTorch.
        components: its networks of one image size.
        target: the engine.
        name: name of the model, for the recipe.
        settings: what to optimise and how to measure.
        report: called with what is measured next.
        start: a recipe whose choice and candidates are used instead of measuring candidates.

    Raises:
        ParityError: if not even floating point meets the limits.
        SpecError: if the target cannot be tuned.
    """
    report("generating reference images with PyTorch")
    run = torch_runner(components)
    requests = sample_requests(model, settings.limits.images, FixedSeed.QUANTIZATION_QUALITY)
    references = reference_samples(model, components, run, requests, lambda _: None)
    candidates: dict[Role, list[MeasuredCandidate]] = {}
    schemes: dict[Role, Schemes] = {}
    with tempfile.TemporaryDirectory() as folder:
        benches = _benches(model, components, target, settings, references, Path(folder))
        for bench in benches:
            candidates[bench.role], schemes[bench.role] = _first_choice(bench, start, report)
        with AssembledCandidates(model, components, requests, references, benches) as assembled:
            quality = refine(assembled, candidates, schemes, report)
    marked = (
        mark_chosen(item, schemes[role], target) for role, items in candidates.items() for item in items
    )
    recipe = Int8Recipe(
        model=name, target=target, prefer=settings.prefer, note=settings.note, host=this_host(settings.threads),
        limits=settings.limits, calibration=settings.calibration, schemes=schemes, candidates=tuple(marked),
    )  # fmt: skip
    return recipe, quality


def _benches(
    model: SourceModel, components: Sequence[SourceComponent], target: TargetName, settings: TuningSettings,
    references: Sequence[RecordedSample], folder: Path,
) -> list[ComponentBench]:  # fmt: skip
    make, run = quantizable_factory(target), torch_runner(components)
    samples = [
        record_sample(model, components, run, request)
        for request in sample_requests(model, settings.calibration.samples, FixedSeed.CALIBRATION)
    ]
    benches = []
    for item in components:
        inputs = calibration_inputs(samples, item.role, settings.calibration.inputs)
        benches.append(ComponentBench(make(item, trace(item), inputs, folder), references, settings, target))
    return benches


def _first_choice(
    bench: ComponentBench, start: Int8Recipe | None, report: Reporter
) -> tuple[list[MeasuredCandidate], Schemes]:
    """The candidates of a component and its schemes, before whole images are measured."""
    if start is not None:
        candidates = [item for item in start.candidates if item.component == bench.role]
        schemes = resolve(role_schemes(start, bench.role), bench.quantizable.groups(), bench.target)
        return candidates, schemes
    with bench.open_float() as floating:
        return _measure_candidates(bench, floating, report)


def _measure_candidates(
    bench: ComponentBench, floating: CandidateSession, report: Reporter
) -> tuple[list[MeasuredCandidate], Schemes]:
    settings, groups = bench.settings, bench.quantizable.groups()
    float_name = float_scheme(bench.target)
    candidates = []
    choices = list(_scheme_choices(groups, bench.target))
    for number, (group, scheme, schemes) in enumerate(choices, 1):
        if settings.measured is not None and (bench.role, group, scheme) not in settings.measured:
            continue
        report(f"{bench.role} {number} of {len(choices)}: {group} {scheme}")
        candidates.append(bench.measure(floating, group, scheme, schemes))
    mixed = choose(list(groups), candidates, settings, float_name)
    report(f"{bench.role}: the chosen groups together")
    mixture = bench.measure(floating, "all", None, mixed)
    while mixture.psnr_db < settings.limits.component_psnr_db and set(mixed.values()) != {float_name}:
        mixed, change = relax(bench, mixed)
        report(f"{bench.role}: {mixture.psnr_db:.1f} dB together, so {change}")
        mixture = bench.measure(floating, "all", None, mixed)
    candidates.append(mixture)
    return candidates, best_of_component(candidates, mixed, groups, settings, bench.target)


def _scheme_choices(
    groups: Mapping[str, Sequence[Scheme]], target: TargetName
) -> list[tuple[str, Scheme, Schemes]]:
    """Every scheme for all groups that support it (others get the next more precise one), then for each group alone."""
    choices: list[tuple[str, Scheme, Schemes]] = []
    for scheme in SCHEMES[target][1:]:
        supporting = [group for group, supported in groups.items() if scheme in supported]
        if supporting:
            everywhere = {group: fitting(scheme, supported, target) for group, supported in groups.items()}
            choices.append(("all", scheme, everywhere))
        if len(groups) > 1:
            choices += [(group, scheme, {group: scheme}) for group in supporting]
    return choices
