"""What a tuning run looks for, and how it chooses among the candidates it has measured: pure functions of rows."""

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

#: A group leaves the scheme that won as a whole when another takes less than this part of its time.
_CLEAR = 0.9
Schemes = dict[str, Scheme]


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """What a tuning run measures and what it looks for."""

    prefer: Preference = "speed"
    limits: Int8Limits = field(default_factory=Int8Limits)  # its ``images`` are drawn
    calibration: Calibration = field(default_factory=Calibration)
    rounds: int = 30  # evaluations per timed candidate; 0: nothing is timed
    threads: int = 2
    measured: Times | None = None  # times of a device; candidates that it did not time are not considered
    note: str = ""


def choose(
    groups: Sequence[str], rows: Sequence[MeasuredCandidate], effort: TuningSettings, plain: Scheme
) -> Schemes:
    """For every group the fastest scheme that keeps its component above the limit; else floating point.

    Times are compared as fractions of fp32's in the same run. A group whose every scheme is slower than fp32
    stays in floating point, unless size is what counts.
    """
    chosen: Schemes = {}
    whole = _fastest(rows, "all", effort.limits)
    for group in groups:
        own = [row for row in rows if row.group == group] or [row for row in rows if len(groups) == 1]
        best = _fastest(own, own[0].group if own else group, effort.limits)
        if best is not None and whole is not None:
            # A single group's time drowns in noise: only a clear gain leaves the scheme that won as a whole.
            usual = _fastest([row for row in own if row.scheme == whole.scheme], best.group, effort.limits)
            best = usual if usual is not None and ratio(best) > _CLEAR * ratio(usual) else best
        pays = best is not None and (effort.prefer == "size" or ratio(best) <= 1.0)
        chosen[group] = best.scheme if best is not None and pays and best.scheme != "mixed" else plain
    return chosen


def best_whole(
    rows: Sequence[MeasuredCandidate], mixed: Schemes, groups: Mapping[str, Sequence[Scheme]], effort: TuningSettings, target: TargetName
) -> Schemes:  # fmt: skip
    """What a component is to be: the mixture, one scheme everywhere, or floating point.

    The fastest that is faster than fp32 where speed is preferred, the smallest where size is (of those within a
    hundredth of its bytes the fastest); nothing below the limit of components is considered.
    """
    plain = float_scheme(target)
    wholes = [row for row in rows if row.group == "all" and row.psnr_db >= effort.limits.component_psnr_db]
    if effort.prefer == "speed":
        wholes = [row for row in wholes if ratio(row) < 1.0]
    else:
        least = min((row.bytes for row in wholes), default=0)
        wholes = [row for row in wholes if row.bytes <= 1.01 * least and row.bytes < row.fp32_bytes]
    best = min(wholes, key=ratio, default=None)
    if best is None:
        return dict.fromkeys(groups, plain)
    if best.scheme == "mixed":
        return mixed
    return {group: fitting(best.scheme, allowed, target) for group, allowed in groups.items()}


def _fastest(rows: Sequence[MeasuredCandidate], group: str, limits: Int8Limits) -> MeasuredCandidate | None:
    passing = [row for row in rows if row.group == group and row.psnr_db >= limits.component_psnr_db]
    return min(passing, key=ratio, default=None)


def ratio(row: MeasuredCandidate) -> float:
    """Time over fp32's; 1 where nothing was timed."""
    return row.milliseconds / row.fp32_milliseconds if row.fp32_milliseconds > 0.0 else 1.0


def costliest(psnr_db: Mapping[Role, float], limit: float, without: Callable[[Role], float]) -> Role | None:
    """The component below ``limit``, else the one ``without`` whose quantization an image comes out best.

    A component's own PSNR does not say what it costs images: an error early in the trajectory grows.
    """
    if not psnr_db:
        return None
    least: Role = min(psnr_db, key=lambda role: psnr_db[role])
    if psnr_db[least] < limit:
        return least
    return max(psnr_db, key=without)


def mark(row: MeasuredCandidate, schemes: Mapping[str, Scheme], target: TargetName) -> MeasuredCandidate:
    """``row``, chosen when its group is made so."""
    if row.group != "all":
        return replace(row, chosen=schemes.get(row.group) == row.scheme)
    used = {scheme for scheme in schemes.values() if scheme != float_scheme(target)}
    return replace(
        row, chosen=bool(used) and (row.scheme == "mixed" if len(used) > 1 else row.scheme in used)
    )
