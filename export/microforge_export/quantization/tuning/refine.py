"""Refines a choice of schemes until whole images meet their limits, at the least cost in time.

For a few chaotic prompts any rounding flips the sample, so more precision need not help. If only one or two images
miss their limit, single groups are therefore relaxed by one step, the cheapest first, and the first choice that
meets every limit is taken. If there is none, the group that costs most precision is relaxed, and the search
starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from microforge.bundle.manifest import Role
from microforge.errors import ParityError
from microforge_export.quantization.quality import MeasuredQuality, Reporter, shortfalls
from microforge_export.quantization.quality_gate import worst_group
from microforge_export.quantization.tuning.candidates import AssembledCandidates, ComponentBench
from microforge_export.quantization.tuning.choice import Schemes, costliest, ratio
from microforge_export.recipes.int8_recipe import MeasuredCandidate, Scheme, float_scheme, relaxed

#: Differences of an image's time below this many milliseconds are ignored, and bytes decide.
_TIME_STEP_MS = 0.1
#: A component's groups are relaxed only if its floating point changes a failing image by this many dB.
_RELEVANT_DB = 1.0
#: Up to this many failing images may be mode flips; more of them need more precision.
_MAX_FLIPS = 2
#: PSNR of an image, by its index, with one component in floating point.
ImageDbWithout = Callable[[Role, int], float]


def refine(
    assembled: AssembledCandidates, candidates: dict[Role, list[MeasuredCandidate]], schemes: dict[Role, Schemes],
    report: Reporter,
) -> MeasuredQuality:  # fmt: skip
    """Relax ``schemes``, in place, until all components together meet the limits.

    Args:
        assembled: measures whole images.
        candidates: measured candidates by role. The mixture of a component whose schemes change is measured again.
        schemes: the choice to refine, by role and operator group.
        report: called with what is measured next.

    Raises:
        ParityError: if not even floating point meets the limits.
    """
    original = {role: dict(chosen) for role, chosen in schemes.items()}
    quality = _until_within_limits(assembled, candidates, schemes, report)
    for role, bench in assembled.benches.items():
        if schemes[role] != original[role]:
            with bench.open_float() as floating:
                mixture = bench.measure(floating, "all", None, schemes[role])
            candidates[role] = [item for item in candidates[role] if item.scheme != "mixed"] + [mixture]
    return quality


def _until_within_limits(
    assembled: AssembledCandidates, candidates: Mapping[Role, Sequence[MeasuredCandidate]],
    schemes: dict[Role, Schemes], report: Reporter,
) -> MeasuredQuality:  # fmt: skip
    while True:
        report(f"generating {len(assembled.requests)} images with the recipe")
        quality = assembled.measure(schemes)
        problems = shortfalls(quality, assembled.settings.limits)
        if not problems:
            return quality
        image_db_without = _image_db_without(assembled, schemes)
        refined = _relax_one_group(assembled, candidates, schemes, quality, image_db_without, report)
        if refined is not None:
            return refined
        bench = _costliest_component(assembled, schemes, quality, image_db_without)
        if bench is None:
            floating = float_scheme(assembled.target)
            raise ParityError(f"not even {floating} meets the limits: {'; '.join(problems)}")
        schemes[bench.role], change = relax(bench, schemes[bench.role])
        report(f"{problems[0]}: {bench.role} {change}")


def _relax_one_group(
    assembled: AssembledCandidates, candidates: Mapping[Role, Sequence[MeasuredCandidate]],
    schemes: dict[Role, Schemes], quality: MeasuredQuality, image_db_without: ImageDbWithout, report: Reporter,
) -> MeasuredQuality | None:  # fmt: skip
    """The quality with one group relaxed that meets the limits, with ``schemes`` changed to it; None without one.

    Only ``_MAX_FLIPS`` images may miss their limit. They are generated for every candidate, and all images for the
    candidates that mend them. A component whose floating point leaves them unchanged has no candidate.
    """
    limits, count = assembled.settings.limits, len(assembled.requests)
    failing = [index for index, db in enumerate(quality.images) if db < limits.image_psnr_worst_db]
    mended = replace(quality, images=tuple(max(db, limits.image_psnr_worst_db) for db in quality.images))
    if len(failing) > _MAX_FLIPS or shortfalls(mended, limits):
        return None
    relevant = {
        role: bench
        for role, bench in assembled.benches.items()
        if any(
            abs(image_db_without(role, index) - quality.images[index]) >= _RELEVANT_DB for index in failing
        )
    }
    for role, group, scheme in relaxations(relevant, candidates, schemes):
        report(f"worst of {count} images {quality.image_worst_db:.1f} dB: trying {role} {group!r} {scheme}")
        changed = {**schemes, role: {**schemes[role], group: scheme}}
        if any(assembled.image_db(changed, index) < limits.image_psnr_worst_db for index in failing):
            continue
        report(f"generating {count} images with {role} {group!r} {scheme}")
        refined = assembled.measure(changed)
        if not shortfalls(refined, limits):
            schemes[role] = changed[role]
            return refined
    return None


def _image_db_without(assembled: AssembledCandidates, schemes: Mapping[Role, Schemes]) -> ImageDbWithout:
    """PSNR of images without the quantization of a component, for the current schemes; each is generated once."""
    floating, current = float_scheme(assembled.target), dict(schemes)
    return cache(
        lambda role, index: assembled.image_db(
            {**current, role: dict.fromkeys(current[role], floating)}, index
        )
    )


def relaxations(
    benches: Mapping[Role, ComponentBench], candidates: Mapping[Role, Sequence[MeasuredCandidate]],
    schemes: Mapping[Role, Schemes],
) -> Iterator[tuple[Role, str, Scheme]]:  # fmt: skip
    """Every quantized group with its next more precise scheme, the cheapest first.

    The cost is the time that an image takes longer, in steps of a tenth of a millisecond, and then the bytes added.
    """
    costs = []
    for role, bench in benches.items():
        floating, supported = float_scheme(bench.target), bench.quantizable.groups()
        measured = {
            (item.group, item.scheme): (ratio(item) * item.fp32_milliseconds, item.bytes)
            for item in candidates[role]
        }
        default = next(((item.fp32_milliseconds, item.fp32_bytes) for item in candidates[role]), (0.0, 0))
        for group, scheme in schemes[role].items():
            if scheme == floating:
                continue
            after = relaxed(scheme, supported[group], bench.target)
            slower, faster = (measured.get((group, choice), default) for choice in (after, scheme))
            added_ms = (slower[0] - faster[0]) * bench.evaluations
            cost = (max(0, round(added_ms / _TIME_STEP_MS)), slower[1] - faster[1])
            costs.append((cost, (role, group, after)))
    yield from (item for _, item in sorted(costs, key=lambda pair: pair[0]))


def _costliest_component(
    assembled: AssembledCandidates, schemes: Mapping[Role, Schemes], quality: MeasuredQuality,
    image_db_without: ImageDbWithout,
) -> ComponentBench | None:  # fmt: skip
    """The component to relax for the sake of the worst image; None if none is quantized."""
    floating = float_scheme(assembled.target)
    worst = quality.images.index(quality.image_worst_db)
    quantized = [role for role in assembled.benches if set(schemes[role].values()) - {floating}]
    psnr = {role: quality.components[role] for role in quantized}
    limit = assembled.settings.limits.component_psnr_db
    role = costliest(psnr, limit, lambda role: image_db_without(role, worst))
    return None if role is None else assembled.benches[role]


def relax(bench: ComponentBench, schemes: Schemes) -> tuple[Schemes, str]:
    """``schemes`` with the group that costs most precision relaxed by one step, and a phrase that tells the change."""
    floating = float_scheme(bench.target)
    quantized = {group: scheme for group, scheme in schemes.items() if scheme != floating}
    group = worst_group(bench.quantizable, quantized, bench.references)
    after = relaxed(schemes[group], bench.quantizable.groups()[group], bench.target)
    return {**schemes, group: after}, f"{group!r} from {schemes[group]} to {after}"
