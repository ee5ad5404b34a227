"""Which INT8 scheme pays for which part of a model, by measurement: error and speed of every candidate.

Each component is tried with one scheme everywhere, then group by group with the rest in floating point. A
group gets the fastest scheme that keeps its component above the limit. Groups that win alone need not win
together, so what was chosen is measured as a whole (scheme ``mixed``) against the schemes everywhere and
against floating point, and the component takes the best of these. Where whole images then fall short, groups
get more precise schemes until the limits are met (``tune_repair``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from microforge.bundle.targets import TargetName
from microforge.streams import FixedSeed
from microforge_export.components.component import SourceComponent, SourceModel, trace
from microforge_export.quantization.base import CandidateSession
from microforge_export.quantization.calibration import (
    Roll,
    calibration_inputs,
    captions,
    roll,
    torch_runner,
)
from microforge_export.quantization.quality import MeasuredQuality, Reporter, reference_rolls
from microforge_export.quantization.registry import quantizable_factory
from microforge_export.quantization.tuning.candidates import AssembledCandidates, ComponentBench
from microforge_export.quantization.tuning.choice import Schemes, TuningSettings, best_whole, choose, mark
from microforge_export.quantization.tuning.repair import repair, soften
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
    model: SourceModel, components: Sequence[SourceComponent], target: TargetName, name: str, effort: TuningSettings,
    report: Reporter = lambda _: None, start: Int8Recipe | None = None,
) -> tuple[Int8Recipe, MeasuredQuality]:  # fmt: skip
    """The recipe that measurement chooses, and the quality of what it makes.

    Args:
        components: of one size.
        name: of the model, for the recipe.
        start: whose choice is taken, with the measurements behind it, instead of measuring candidates.

    Raises:
        ParityError: when not even floating point meets the limits.
        SpecError: for a target that cannot be tuned.
    """
    report("drawing with torch")
    run = torch_runner(components)
    requests = captions(effort.limits.images, FixedSeed.QUANTIZATION_QUALITY)
    references = reference_rolls(model, components, run, requests, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        benches = _benches(model, components, target, effort, references, Path(folder))
        found = {bench.role: _started(bench, start, report) for bench in benches}
        rows = {role: item[0] for role, item in found.items()}
        schemes = {role: item[1] for role, item in found.items()}
        with AssembledCandidates(model, components, requests, references, benches) as whole:
            quality = repair(whole, rows, schemes, report)
    chosen = tuple(mark(row, schemes[role], target) for role, items in rows.items() for row in items)
    recipe = Int8Recipe(
        model=name, target=target, prefer=effort.prefer, note=effort.note, host=this_host(effort.threads),
        limits=effort.limits, calibration=effort.calibration, schemes=schemes, rows=chosen,
    )  # fmt: skip
    return recipe, quality


def _benches(
    model: SourceModel, components: Sequence[SourceComponent], target: TargetName, effort: TuningSettings,
    references: Sequence[Roll], folder: Path,
) -> list[ComponentBench]:  # fmt: skip
    make, run = quantizable_factory(target), torch_runner(components)
    calibrated = [
        roll(model, components, run, request)
        for request in captions(effort.calibration.samples, FixedSeed.CALIBRATION)
    ]
    benches = []
    for item in components:
        inputs = calibration_inputs(calibrated, item.role, effort.calibration.inputs)
        benches.append(ComponentBench(make(item, trace(item), inputs, folder), references, effort, target))
    return benches


def _started(
    bench: ComponentBench, start: Int8Recipe | None, report: Reporter
) -> tuple[list[MeasuredCandidate], Schemes]:
    """What a component is to be before whole images have been seen, and the measurements that say so."""
    if start is not None:
        rows = [row for row in start.rows if row.component == bench.role]
        return rows, resolve(role_schemes(start, bench.role), bench.draft.groups(), bench.target)
    with bench.plain() as plain:
        return _component(bench, plain, report)


def _component(
    bench: ComponentBench, fp32: CandidateSession, report: Reporter
) -> tuple[list[MeasuredCandidate], Schemes]:
    """Every candidate of a component, and what it is to be."""
    effort, groups = bench.effort, bench.draft.groups()
    plain = float_scheme(bench.target)
    rows = []
    tries = list(_candidates(groups, bench.target))
    for number, (group, scheme, schemes) in enumerate(tries, 1):
        if effort.measured is not None and (bench.role, group, scheme) not in effort.measured:
            continue
        report(f"{bench.role} {number}/{len(tries)}: {group} {scheme}")
        rows.append(bench.row(fp32, group, scheme, schemes))
    mixed = choose(list(groups), rows, effort, plain)
    report(f"{bench.role}: the choice as a whole")
    row = bench.row(fp32, "all", None, mixed)
    while row.psnr_db < effort.limits.component_psnr_db and set(mixed.values()) != {plain}:
        mixed, note = soften(bench, mixed)
        report(f"{bench.role}: {row.psnr_db:.1f} dB together; {note}")
        row = bench.row(fp32, "all", None, mixed)
    rows.append(row)
    return rows, best_whole(rows, mixed, groups, effort, bench.target)


def _candidates(
    groups: Mapping[str, Sequence[Scheme]], target: TargetName
) -> list[tuple[str, Scheme, Schemes]]:
    """One scheme wherever it is allowed, or the next more precise one elsewhere; then every group alone."""
    tries: list[tuple[str, Scheme, Schemes]] = []
    for scheme in SCHEMES[target][1:]:
        able = [group for group, allowed in groups.items() if scheme in allowed]
        if able:
            everywhere = {group: fitting(scheme, allowed, target) for group, allowed in groups.items()}
            tries.append(("all", scheme, everywhere))
        if len(groups) > 1:
            tries += [(group, scheme, {group: scheme}) for group in able]
    return tries
