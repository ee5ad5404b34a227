"""Which INT8 scheme pays for which part of a model, by measurement: error and speed of every candidate.

Each component is tried with one scheme everywhere, then group by group with the rest in floating point. A
group gets the fastest scheme that keeps its component above the limit. Groups that win alone need not win
together, so what was chosen is measured as a whole (scheme ``mixed``) against the schemes everywhere and
against floating point, and the component takes the best of these. Where whole images then fall short, the
group at fault is found by bisection and gets a more precise scheme, until the limits are met.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from microforge.bundle import Role
from microforge.bundle_targets import TargetName
from microforge.errors import ParityError
from microforge_export.calibrate import (
    CALIBRATION_SEED,
    JUDGING_SEED,
    Roll,
    Run,
    calibration_inputs,
    captions,
    roll,
    torch_runner,
)
from microforge_export.int8_recipe import (
    SCHEMES,
    Int8Recipe,
    Row,
    Scheme,
    fitting,
    float_scheme,
    safer,
)
from microforge_export.int8_target import Draft, Trial, drafting
from microforge_export.parity import psnr_db
from microforge_export.program import Component, SourceModel, trace
from microforge_export.quality import (
    Quality,
    Reporter,
    component_psnr,
    measure_quality,
    reference_rolls,
    shortfalls,
)
from microforge_export.quality_gate import worst_group
from microforge_export.recipe import Draw
from microforge_export.timing import interleaved, this_host
from microforge_export.tune_choice import Effort, Schemes, best_whole, choose, costliest, mark


@dataclass(frozen=True)
class Bench:
    """Where candidates of one component are measured."""

    draft: Draft
    references: Sequence[Roll]
    effort: Effort
    target: TargetName

    @property
    def role(self) -> Role:
        return self.draft.component.role

    def plain(self) -> AbstractContextManager[Trial]:
        """The component in floating point, which every candidate is timed against."""
        return self.draft.trial({}, self.effort.threads)

    def row(self, plain: Trial, group: str, scheme: Scheme | None, schemes: Mapping[str, Scheme]) -> Row:
        """Error, time and bytes of the component under ``schemes``; ``scheme`` None is a mixture."""
        named, effort = scheme or "mixed", self.effort
        with self.draft.trial(schemes, effort.threads) as ours:
            psnr = component_psnr(lambda _, inputs: ours.session.run(inputs), self.role, self.references[:1])
            example = self.references[0].cases[self.role][0].inputs
            taken = (0.0, 0.0)
            if effort.measured is not None:
                taken = effort.measured.get((self.role, group, named), taken)
            elif effort.rounds:
                calls = [lambda: ours.session.run(example), lambda: plain.session.run(example)]
                first, second = interleaved(calls, effort.rounds)
                taken = (first, second)
            return Row(
                component=self.role, group=group, scheme=named, psnr_db=psnr, milliseconds=round(taken[0], 4),
                fp32_milliseconds=round(taken[1], 4), bytes=ours.bytes, fp32_bytes=plain.bytes,
            )  # fmt: skip


def tune(
    model: SourceModel, components: Sequence[Component], target: TargetName, name: str, effort: Effort,
    report: Reporter = lambda _: None,
) -> tuple[Int8Recipe, Quality]:  # fmt: skip
    """The recipe that measurement chooses, and the quality of what it makes.

    Args:
        components: of one size.
        name: of the model, for the recipe.

    Raises:
        ParityError: when not even floating point meets the limits.
        SpecError: for a target that cannot be tuned.
    """
    report("drawing with torch")
    run = torch_runner(components)
    draws = captions(effort.limits.images, JUDGING_SEED)
    references = reference_rolls(model, components, run, draws, lambda _: None)
    with tempfile.TemporaryDirectory() as folder:
        benches = _benches(model, components, target, effort, references, Path(folder))
        found = {}
        for bench in benches:
            with bench.plain() as plain:
                found[bench.role] = _component(bench, plain, report)
        rows = {role: item[0] for role, item in found.items()}
        schemes = {role: item[1] for role, item in found.items()}
        quality = _repair(_Whole(model, components, draws, references, benches), rows, schemes, report)
    chosen = tuple(mark(row, schemes[role], target) for role, items in rows.items() for row in items)
    recipe = Int8Recipe(
        model=name, target=target, prefer=effort.prefer, note=effort.note, host=this_host(effort.threads),
        limits=effort.limits, calibration=effort.calibration, schemes=schemes, rows=chosen,
    )  # fmt: skip
    return recipe, quality


@dataclass(frozen=True)
class _Whole:
    """All components together, and what whole images are judged by."""

    model: SourceModel
    components: Sequence[Component]
    draws: Sequence[Draw]
    references: Sequence[Roll]
    benches: Sequence[Bench]

    @contextmanager
    def _run(self, schemes: Mapping[Role, Schemes]) -> Iterator[Run]:
        with ExitStack() as stack:
            opened = {
                item.role: stack.enter_context(item.draft.trial(schemes[item.role])) for item in self.benches
            }
            yield lambda role, inputs: opened[role].session.run(inputs)

    def measure(self, schemes: Mapping[Role, Schemes]) -> Quality:
        with self._run(schemes) as run:
            return measure_quality(self.model, self.components, run, self.draws, self.references)

    def image_db(self, schemes: Mapping[Role, Schemes], index: int) -> float:
        """PSNR of one drawing."""
        with self._run(schemes) as run:
            drawn = roll(self.model, self.components, run, self.draws[index], keep_cases=False)
        return psnr_db(self.references[index].image, drawn.image)


def _repair(
    whole: _Whole, rows: dict[Role, list[Row]], schemes: dict[Role, Schemes], report: Reporter
) -> Quality:
    """Make ``schemes`` more precise, in place, until everything together meets the limits; ``rows`` follow.

    All images are drawn again only when the worst of them has become good enough.
    """
    limits, plain = whole.benches[0].effort.limits, float_scheme(whole.benches[0].target)
    while True:
        report(f"drawing {len(whole.draws)} images with the recipe")
        quality = whole.measure(schemes)
        problems = shortfalls(quality, limits)
        if not problems:
            return quality
        worst, roles = quality.images.index(quality.image_worst_db), dict[Role, Bench]()
        while True:
            weak = _costliest(whole, schemes, quality, worst)
            if weak is None and not roles:
                raise ParityError(f"not even {plain} meets the limits: {'; '.join(problems)}")
            if weak is None:
                break
            schemes[weak.role], note = _soften(weak, schemes[weak.role])
            roles[weak.role] = weak
            report(f"{problems[0]}: {weak.role} {note}")
            if whole.image_db(schemes, worst) >= limits.image_psnr_worst_db:
                break
        for bench in roles.values():
            with bench.plain() as trial:
                row = bench.row(trial, "all", None, schemes[bench.role])
            rows[bench.role] = [item for item in rows[bench.role] if item.scheme != "mixed"] + [row]


def _benches(
    model: SourceModel, components: Sequence[Component], target: TargetName, effort: Effort,
    references: Sequence[Roll], folder: Path,
) -> list[Bench]:  # fmt: skip
    make, run = drafting(target), torch_runner(components)
    calibrated = [
        roll(model, components, run, draw) for draw in captions(effort.calibration.drawings, CALIBRATION_SEED)
    ]
    benches = []
    for item in components:
        inputs = calibration_inputs(calibrated, item.role, effort.calibration.inputs)
        benches.append(Bench(make(item, trace(item), inputs, folder), references, effort, target))
    return benches


def _component(bench: Bench, fp32: Trial, report: Reporter) -> tuple[list[Row], Schemes]:
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
        mixed, note = _soften(bench, mixed)
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


def _costliest(whole: _Whole, schemes: Mapping[Role, Schemes], quality: Quality, index: int) -> Bench | None:
    """The component to make more precise for the sake of the drawing ``index``; None when all is plain."""
    plain = {
        item.role: dict.fromkeys(schemes[item.role], float_scheme(item.target)) for item in whole.benches
    }
    left = {item.role: item for item in whole.benches if schemes[item.role] != plain[item.role]}
    psnr = {role: quality.components[role] for role in left}
    limit = whole.benches[0].effort.limits.component_psnr_db
    role = costliest(psnr, limit, lambda role: whole.image_db({**schemes, role: plain[role]}, index))
    return None if role is None else left[role]


def _soften(bench: Bench, schemes: Schemes) -> tuple[Schemes, str]:
    """``schemes`` with the group that costs most precision one step more precise, and a phrase about it."""
    plain = float_scheme(bench.target)
    quantized = {group: scheme for group, scheme in schemes.items() if scheme != plain}
    group = worst_group(bench.draft, quantized, bench.references)
    after = safer(schemes[group], bench.draft.groups()[group], bench.target)
    return {**schemes, group: after}, f"{group!r} from {schemes[group]} to {after}"
