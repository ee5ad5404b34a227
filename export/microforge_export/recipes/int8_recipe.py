"""An INT8 recipe: the quantization schemes of one model on one target, and the limits that the result must meet.

A recipe names a scheme per component role and operator group (``operator_groups``). The group ``*`` stands for all
groups that are not named; a component that is not named stays in floating point. A recipe also records the
measured candidates that it was chosen from and the host that measured them. ``mf-export tune`` writes one, a build
applies one; ``recipe_file`` has the TOML format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from microforge.bundle.manifest import Role
from microforge.bundle.targets import Precision, TargetName
from microforge.errors import SpecError

#: ``weight-only``: int8 weights per channel, computed in floating point.
#: ``dynamic``: int8 weights, and 8-bit activations that are scaled in every evaluation.
#: ``static``: int8 weights, and 8-bit activations with calibrated ranges.
#: ``linear8``: stored as int8 per channel. ``palettize6``, ``palettize4``: stored as indices of 6 or 4 bits into a
#: table of values. The other two are floating point.
Scheme = Literal[
    "fp32", "fp16", "weight-only", "dynamic", "static", "linear8", "palettize6", "palettize4"
]  # fmt: skip
#: The scheme of a measured candidate; ``mixed`` is the combination of the schemes chosen group by group.
CandidateScheme = Scheme | Literal["mixed"]
#: The schemes of each target: its floating point first, then from the most to the least precise.
SCHEMES: Mapping[TargetName, tuple[Scheme, ...]] = {
    "onnx": ("fp32", "weight-only", "dynamic", "static"),
    "executorch": ("fp32", "weight-only", "dynamic", "static"),
    "coreml": ("fp16", "linear8", "palettize6", "palettize4"),
    "litert": ("fp32", "weight-only", "dynamic"),
}
#: The group that stands for all groups that a recipe does not name.
OTHERS = "*"
#: Ends the name of the groups of constants that are no parameters. Whether a graph has any depends on how it was
#: lowered, so a recipe may name one that is not there.
CONSTANTS = " other"
Preference = Literal["speed", "size"]


@dataclass(frozen=True, kw_only=True)
class Int8Limits:
    """Limits of an INT8 target, compared with PyTorch in fp32. If one is missed, nothing is written.

    Attributes:
        component_psnr_db: worst output of a component over its recorded inputs.
        images: number of images that the two image limits are measured over.
        image_psnr_median_db: median PSNR of images from the same noise.
        image_psnr_worst_db: worst PSNR of these images.
        guidance_norm_ratio_low: lowest norm of (conditional - unconditional prediction) over that of PyTorch.
        guidance_norm_ratio_high: highest value of the same ratio.
        relative_state_error: largest relative error of the carried state after the last step.
    """

    component_psnr_db: float = 20.0
    images: int = 32
    image_psnr_median_db: float = 30.0
    image_psnr_worst_db: float = 24.0
    guidance_norm_ratio_low: float = 0.9
    guidance_norm_ratio_high: float = 1.1
    relative_state_error: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The data that static ranges are calibrated on; fixed by the recipe, so that builds are reproducible.

    Attributes:
        samples: number of captions of the built-in world that PyTorch generates images of.
        inputs: number of evaluations per component, spread evenly over all samples and sampling steps.
    """

    samples: int = 8
    inputs: int = 32


@dataclass(frozen=True, kw_only=True)
class Host:
    """The machine on which the candidates of a recipe were timed."""

    machine: str  # platform.machine()
    instructions: tuple[str, ...]  # vector extensions that int8 kernels use
    threads: int


@dataclass(frozen=True, kw_only=True)
class MeasuredCandidate:
    """One component with ``scheme`` for one operator group and floating point for the others, measured.

    Attributes:
        component: role of the component.
        group: operator group; "all" for every group together.
        scheme: "mixed" for the schemes that were chosen group by group, together.
        psnr_db: worst output over the recorded inputs of one sample.
        milliseconds: shortest evaluation; 0 if it was not timed.
        fp32_milliseconds: the same for the component in floating point, timed in alternation.
        bytes: size of the component's constants.
        fp32_bytes: the same for the component in floating point.
        chosen: whether the recipe uses it.
    """

    component: Role
    group: str
    scheme: CandidateScheme
    psnr_db: float
    milliseconds: float
    fp32_milliseconds: float
    bytes: int
    fp32_bytes: int
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Int8Recipe:
    """The quantization of one model on one target.

    Attributes:
        model: name of the model.
        target: the engine.
        prefer: what the choice optimised.
        note: one line about the measurements, for people.
        host: where the candidates were timed.
        limits: what the result must reach.
        calibration: what static ranges are calibrated on.
        schemes: role -> operator group -> scheme.
        candidates: what the schemes were chosen from.
    """

    model: str
    target: TargetName
    prefer: Preference = "speed"
    note: str = ""
    host: Host
    limits: Int8Limits = field(default_factory=Int8Limits)
    calibration: Calibration = field(default_factory=Calibration)
    schemes: Mapping[Role, Mapping[str, Scheme]]
    candidates: tuple[MeasuredCandidate, ...] = ()


def float_scheme(target: TargetName) -> Scheme:
    """The floating-point scheme of ``target``."""
    return SCHEMES[target][0]


def resolve(
    schemes: Mapping[str, Scheme], groups: Mapping[str, Sequence[Scheme]], target: TargetName
) -> dict[str, Scheme]:
    """The scheme of every operator group of a component, with ``*`` filled in.

    Args:
        schemes: operator group -> scheme, as a recipe has it for one role.
        groups: all operator groups of the component with the schemes that each supports. A group that does not
            support the scheme of ``*`` gets the next more precise one that it supports.
        target: the engine.

    Raises:
        SpecError: if ``schemes`` names an unknown group, or a scheme that the group does not support.
    """
    floating, rest = float_scheme(target), schemes.get(OTHERS)
    resolved = {
        group: floating if rest is None else fitting(rest, supported, target)
        for group, supported in groups.items()
    }
    for group, scheme in schemes.items():
        if group == OTHERS:
            continue
        if group not in groups:
            if group.endswith(CONSTANTS):
                continue
            raise SpecError(
                f"the recipe names an operator group {group!r}; this model has: {', '.join(groups)}"
            )
        if scheme != floating and scheme not in groups[group]:
            allowed = ", ".join((floating, *groups[group]))
            raise SpecError(f"operator group {group!r} cannot be {scheme!r}; allowed: {allowed}")
        resolved[group] = scheme
    return resolved


def fitting(scheme: Scheme, supported: Sequence[Scheme], target: TargetName) -> Scheme:
    """``scheme`` if it is supported, else the next more precise one that is, else floating point."""
    order = SCHEMES[target]
    at_least_as_precise = order[1 : order.index(scheme) + 1]
    return next((item for item in reversed(at_least_as_precise) if item in supported), order[0])


def relaxed(scheme: Scheme, supported: Sequence[Scheme], target: TargetName) -> Scheme:
    """The next more precise scheme than ``scheme`` that is supported; floating point at the end."""
    order = SCHEMES[target]
    return fitting(order[max(order.index(scheme) - 1, 0)], supported, target)


def role_schemes(recipe: Int8Recipe, role: Role, family: Role | None = None) -> Mapping[str, Scheme]:
    """The schemes of a component by operator group.

    Args:
        recipe: the recipe.
        role: of the component.
        family: of another component with the same weights, whose schemes it takes unless it has its own.
    """
    return recipe.schemes.get(role, recipe.schemes.get(family or role, {}))


def component_precision(recipe: Int8Recipe, role: Role, family: Role | None = None) -> Precision:
    """``int8`` if any operator group of the component is quantized, else the target's floating point."""
    floating = float_scheme(recipe.target)
    quantized = any(scheme != floating for scheme in role_schemes(recipe, role, family).values())
    return "int8" if quantized else "fp16" if floating == "fp16" else "fp32"
