"""The settings of a tuning run, and the choice among measured candidates: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from microforge.bundle.manifest import Role
from microforge.bundle.targets import TargetName
from microforge_export.quantization.tuning.timing import Times
from microforge_export.recipes.int8_recipe import (
    Calibration,
    Int8Limits,
    MeasuredCandidate,
    Preference,
    Scheme,
    fitting,
    float_scheme,
)

#: Another scheme than the best one of the whole component must take less than this share of its time in a group.
_CLEAR_GAIN = 0.9
#: Operator group -> scheme, for one component.
Schemes = dict[str, Scheme]


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """What a tuning run optimises and how it measures.

    Attributes:
        limits: what the result must reach; its ``images`` are generated.
        rounds: evaluations per timed candidate; 0 if nothing is timed.
        threads: threads of the engine while it is timed.
        measured: times of a device; candidates without a time there are not considered.
        note: stored in the recipe.
    """

    prefer: Preference = "speed"
    limits: Int8Limits = field(default_factory=Int8Limits)
    calibration: Calibration = field(default_factory=Calibration)
    rounds: int = 30
    threads: int = 2
    measured: Times | None = None
    note: str = ""


def choose(
    groups: Sequence[str], candidates: Sequence[MeasuredCandidate], settings: TuningSettings, floating: Scheme
) -> Schemes:
    """The fastest scheme of every group that keeps its component within the limit, else floating point.

    Times are compared as fractions of fp32's time in the same run. A group that is slower than fp32 with every
    scheme stays in floating point, unless size is preferred.
    """
    schemes: Schemes = {}
    best_everywhere = _fastest(candidates, "all", settings.limits)
    for group in groups:
        of_group = [item for item in candidates if item.group == group]
        if not of_group and len(groups) == 1:
            of_group = list(candidates)
        best = _fastest(of_group, of_group[0].group if of_group else group, settings.limits)
        if best is not None and best_everywhere is not None:
            # The time of a single group is lost in noise, so only a clear gain overrules the component's best.
            same_scheme = [item for item in of_group if item.scheme == best_everywhere.scheme]
            usual = _fastest(same_scheme, best.group, settings.limits)
            best = usual if usual is not None and ratio(best) > _CLEAR_GAIN * ratio(usual) else best
        pays = best is not None and (settings.prefer == "size" or ratio(best) <= 1.0)
        schemes[group] = best.scheme if best is not None and pays and best.scheme != "mixed" else floating
    return schemes


def best_of_component(
    candidates: Sequence[MeasuredCandidate], mixed: Schemes, groups: Mapping[str, Sequence[Scheme]],
    settings: TuningSettings, target: TargetName,
) -> Schemes:  # fmt: skip
    """The best schemes of a whole component: the mixture, one scheme everywhere, or floating point.

    With speed preferred, the fastest candidate that is faster than fp32. With size preferred, the smallest one,
    and the fastest among those within a hundredth of its bytes. Candidates below the limit are not considered.
    """
    whole = [
        item
        for item in candidates
        if item.group == "all" and item.psnr_db >= settings.limits.component_psnr_db
    ]
    if settings.prefer == "speed":
        whole = [item for item in whole if ratio(item) < 1.0]
    else:
        least = min((item.bytes for item in whole), default=0)
        whole = [item for item in whole if item.bytes <= 1.01 * least and item.bytes < item.fp32_bytes]
    best = min(whole, key=ratio, default=None)
    if best is None:
        return dict.fromkeys(groups, float_scheme(target))
    if best.scheme == "mixed":
        return mixed
    return {group: fitting(best.scheme, supported, target) for group, supported in groups.items()}


def _fastest(
    candidates: Sequence[MeasuredCandidate], group: str, limits: Int8Limits
) -> MeasuredCandidate | None:
    within_limit = [
        item for item in candidates if item.group == group and item.psnr_db >= limits.component_psnr_db
    ]
    return min(within_limit, key=ratio, default=None)


def ratio(candidate: MeasuredCandidate) -> float:
    """Time of a candidate over that of fp32; 1 if it was not timed."""
    timed = candidate.fp32_milliseconds > 0.0
    return candidate.milliseconds / candidate.fp32_milliseconds if timed else 1.0


def costliest(
    psnr_db: Mapping[Role, float], limit: float, image_db_without: Callable[[Role], float]
) -> Role | None:
    """The component that costs most precision; None if no component is quantized.

    It is the component below ``limit``, or else the one without whose quantization an image is most precise: the
    PSNR of a component does not tell what it costs an image, since errors early in the trajectory grow.

    Args:
        psnr_db: PSNR of every quantized component.
        limit: lowest PSNR that is allowed.
        image_db_without: PSNR of an image with the given component in floating point.
    """
    if not psnr_db:
        return None
    least: Role = min(psnr_db, key=lambda role: psnr_db[role])
    if psnr_db[least] < limit:
        return least
    return max(psnr_db, key=image_db_without)


def mark_chosen(
    candidate: MeasuredCandidate, schemes: Mapping[str, Scheme], target: TargetName
) -> MeasuredCandidate:
    """``candidate``, marked as chosen if ``schemes`` use it."""
    if candidate.group != "all":
        return replace(candidate, chosen=schemes.get(candidate.group) == candidate.scheme)
    used = {scheme for scheme in schemes.values() if scheme != float_scheme(target)}
    expected = candidate.scheme == "mixed" if len(used) > 1 else candidate.scheme in used
    return replace(candidate, chosen=bool(used) and expected)
