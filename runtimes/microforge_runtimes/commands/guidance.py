"""``--guidance`` of ``mf-generate``: a number for the only scale of a bundle, or NAME=NUMBER for one of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from microforge.errors import SpecError

if TYPE_CHECKING:
    from microforge.bundle.manifest import Manifest

#: Stands for the bundle's only scale until the bundle is open.
ONLY = ""


def scales_of(values: Sequence[str]) -> dict[str, float]:
    """The scales by their names; ``ONLY`` where the option has no name.

    Raises:
        SpecError: for something that is no number, or a scale that is given twice.
    """
    scales: dict[str, float] = {}
    for text in values:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise SpecError(f"--guidance is {text!r}; write a number, or NAME=NUMBER") from None
        if name.strip() in scales:
            raise SpecError(f"--guidance is given twice{f' for {name}' if name else ''}")
        scales[name.strip()] = value
    return scales


def named_scales(scales: Mapping[str, float], manifest: Manifest) -> dict[str, float]:
    """``scales`` with the name of the bundle's only scale in place of ``ONLY``.

    Raises:
        SpecError: when the bundle has no scale, or several of them.
    """
    known = list(manifest.guidance)
    if ONLY in scales and not known:
        raise SpecError(
            "--guidance: this bundle has no guidance scale; it is fixed in its weights or its sampler"
        )
    if ONLY in scales and len(known) > 1:
        raise SpecError(
            f"--guidance: this bundle has several scales ({', '.join(known)}); write {known[0]}=NUMBER"
        )
    return {name or known[0]: value for name, value in scales.items()}
