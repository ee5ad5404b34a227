"""Making a choice of schemes more precise until whole images meet their limits, at the least cost in time.

Some prompts are decided by a hair: any small change turns them one way or the other, in no order of precision
(docs/log.md). So where one or two images fall short and nothing else, single groups are first made one step more precise, the
cheapest first, and the first choice that meets every limit is taken. Only when none does, the group that costs most
precision gives way, and it begins again.
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
from microforge_export.recipes.int8_recipe import MeasuredCandidate, Scheme, float_scheme, safer

#: Evaluations of a component for an image, about: what a millisecond of it weighs.
_WEIGHT: Mapping[Role, int] = {"denoiser": 4}
#: Milliseconds of an image below which times do not count, and bytes decide.
_SAME_MS = 0.1
#: What a component in floating point must change of a failing image, in dB, for its groups to be tried.
_MOVES_DB = 1.0
#: Failing images that may be a matter of luck; more of them want more precision.
_FEW = 2
#: PSNR of a drawing, by its index, with one component in floating point.
Without = Callable[[Role, int], float]


def repair(
    whole: AssembledCandidates,
    rows: dict[Role, list[MeasuredCandidate]],
    schemes: dict[Role, Schemes],
    report: Reporter,
) -> MeasuredQuality:
    """Make ``schemes`` more precise, in place, until everything together meets the limits; ``rows`` follow.

    Raises:
        ParityError: when not even floating point meets them.
    """
    limits = whole.effort.limits
    before = {role: dict(chosen) for role, chosen in schemes.items()}
    while True:
        report(f"drawing {len(whole.requests)} images with the recipe")
        quality = whole.measure(schemes)
        problems = shortfalls(quality, limits)
        without = _without(whole, schemes)
        found = _sidestep(whole, rows, schemes, quality, without, report) if problems else quality
        if found is not None:
            break
        weak = _costliest(whole, schemes, quality, without)
        if weak is None:
            plain = float_scheme(whole.target)
            raise ParityError(f"not even {plain} meets the limits: {'; '.join(problems)}")
        schemes[weak.role], note = soften(weak, schemes[weak.role])
        report(f"{problems[0]}: {weak.role} {note}")
    for role, bench in whole.benches.items():
        if schemes[role] != before[role]:
            with bench.plain() as trial:
                row = bench.row(trial, "all", None, schemes[role])
            rows[role] = [item for item in rows[role] if item.scheme != "mixed"] + [row]
    return found


def _sidestep(
    whole: AssembledCandidates, rows: Mapping[Role, Sequence[MeasuredCandidate]], schemes: dict[Role, Schemes], quality: MeasuredQuality,
    without: Without, report: Reporter,
) -> MeasuredQuality | None:  # fmt: skip
    """The quality with one group more precise that meets the limits, ``schemes`` changed so; None without one.

    Only ``_FEW`` images may fall short: they are drawn again for every candidate, all images for those that mend them.
    A component whose floating point leaves them as they are has no part in it; decoders seldom have.
    """
    limits = whole.effort.limits
    failing = [index for index, db in enumerate(quality.images) if db < limits.image_psnr_worst_db]
    mended = replace(quality, images=tuple(max(db, limits.image_psnr_worst_db) for db in quality.images))
    if len(failing) > _FEW or shortfalls(mended, limits):
        return None
    movers = {
        role: bench
        for role, bench in whole.benches.items()
        if any(abs(without(role, index) - quality.images[index]) >= _MOVES_DB for index in failing)
    }
    for role, group, scheme in alternatives(movers, rows, schemes):
        report(
            f"worst of {len(whole.requests)} images {quality.image_worst_db:.1f} dB: trying {role} {group!r} {scheme}"
        )
        changed = {**schemes, role: {**schemes[role], group: scheme}}
        if any(whole.image_db(changed, index) < limits.image_psnr_worst_db for index in failing):
            continue
        report(f"drawing {len(whole.requests)} images with {role} {group!r} {scheme}")
        found = whole.measure(changed)
        if not shortfalls(found, limits):
            schemes[role] = changed[role]
            return found
    return None


def _without(whole: AssembledCandidates, schemes: Mapping[Role, Schemes]) -> Without:
    """What drawings become without the quantization of a component, as ``schemes`` are now; each is drawn once."""
    plain, now = float_scheme(whole.target), dict(schemes)
    return cache(
        lambda role, index: whole.image_db({**now, role: dict.fromkeys(now[role], plain)}, index),
    )


def alternatives(
    benches: Mapping[Role, ComponentBench],
    rows: Mapping[Role, Sequence[MeasuredCandidate]],
    schemes: Mapping[Role, Schemes],
) -> Iterator[tuple[Role, str, Scheme]]:
    """Every quantized group with its next more precise scheme, in the order of the time that an image loses by it.

    Of those that lose the same, to a tenth of a millisecond, first the one that adds least bytes.
    """
    found = []
    for role, bench in benches.items():
        plain, allowed = float_scheme(bench.target), bench.draft.groups()
        shares = {
            (row.group, row.scheme): (ratio(row) * row.fp32_milliseconds, row.bytes) for row in rows[role]
        }
        whole = next(((row.fp32_milliseconds, row.fp32_bytes) for row in rows[role]), (0.0, 0))
        for group, scheme in schemes[role].items():
            if scheme == plain:
                continue
            after = safer(scheme, allowed[group], bench.target)
            slower, faster = (shares.get((group, choice), whole) for choice in (after, scheme))
            lost = (slower[0] - faster[0]) * _WEIGHT.get(role, 1)
            cost = (max(0, round(lost / _SAME_MS)), slower[1] - faster[1])
            found.append((cost, (role, group, after)))
    yield from (item for _, item in sorted(found, key=lambda pair: pair[0]))


def _costliest(
    whole: AssembledCandidates, schemes: Mapping[Role, Schemes], quality: MeasuredQuality, without: Without
) -> ComponentBench | None:
    """The component to make more precise for the sake of the worst drawing; None when all is plain."""
    plain = float_scheme(whole.target)
    worst = quality.images.index(quality.image_worst_db)
    quantized = [role for role in whole.benches if set(schemes[role].values()) - {plain}]
    psnr = {role: quality.components[role] for role in quantized}
    role = costliest(psnr, whole.effort.limits.component_psnr_db, lambda role: without(role, worst))
    return None if role is None else whole.benches[role]


def soften(bench: ComponentBench, schemes: Schemes) -> tuple[Schemes, str]:
    """``schemes`` with the group that costs most precision one step more precise, and a phrase about it."""
    plain = float_scheme(bench.target)
    quantized = {group: scheme for group, scheme in schemes.items() if scheme != plain}
    group = worst_group(bench.draft, quantized, bench.references)
    after = safer(schemes[group], bench.draft.groups()[group], bench.target)
    return {**schemes, group: after}, f"{group!r} from {schemes[group]} to {after}"
