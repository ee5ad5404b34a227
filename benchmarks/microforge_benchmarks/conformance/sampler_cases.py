"""Sampler tables followed row by row with known network outputs: ``advance`` must give the same bits in every language.

The tables are those of the shipped student, some that use every feature of the format, and every file in the folder
``tables`` beside this module: ``NAME.json`` with a ``SamplerTable`` of the bundle format (docs/bundle.md). Drop the table of a
further solver there and write the golden files again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from microforge.bundle.reference_model import table
from microforge.bundle.sampling import SamplerRow, SamplerTable
from microforge.noise import standard_normal
from microforge_runtimes.sampler import Floats, Step, sample, weighted_sum

TABLES = Path(__file__).parent / "tables"
ELEMENTS = 6
_SEED = 4
_STUDENT_TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)


def sampler_tables() -> Mapping[str, SamplerTable]:
    """Every table by its name."""
    files = sorted(TABLES.glob("*.json"))
    others = {path.stem: SamplerTable.model_validate_json(path.read_bytes()) for path in files}
    return {"student": table(_STUDENT_TIMES), "history": _history(), "ancestral": _ancestral(), **others}


def sampler_values() -> dict[str, Any]:
    """Everything that ``samplers.json`` holds."""
    cases = [_case(name, item) for name, item in sampler_tables().items()]
    return {"description": _DESCRIPTION, "elements": ELEMENTS, "cases": cases}


_DESCRIPTION = (
    "table: as in a manifest. noise: the initial noise, then the fresh noise of every row (null where the row takes none). "
    "outputs: m of every row. inputs: u of every row, then the final latent. clean: the predicted clean latent of every row "
    "(null where the table does not say). All numbers but the table's are float32 values; results must have the same bits."
)


def _case(name: str, item: SamplerTable) -> dict[str, Any]:
    count = len(item.rows)
    initial = _numbers(0)
    outputs = [_numbers(1000 + index) for index in range(count)]
    fresh = [_numbers(index + 1) if row.noise != 0.0 else None for index, row in enumerate(item.rows)]
    first = initial if item.first == 1.0 else weighted_sum([(item.first, initial)])
    steps: list[Step] = []
    remaining = iter(outputs)
    sample(item, lambda latent, time: (next(remaining), {}), first, _numbers, callback=steps.append)
    return {
        "name": name,
        "table": item.model_dump(mode="json"),
        "noise": [_listed(values) for values in (initial, *fresh)],
        "outputs": [_listed(values) for values in outputs],
        "inputs": [_listed(values) for values in (first, *(step.latent for step in steps))],
        "clean": [None if step.clean_weights is None else _listed(step.clean()) for step in steps],
    }


def _numbers(index: int) -> Floats:
    return standard_normal(_SEED, (1, ELEMENTS, 1, 1), index * ELEMENTS)


def _listed(values: Floats | None) -> list[float] | None:
    return None if values is None else values.reshape(-1).tolist()


def _history() -> SamplerTable:
    """A multi-step table with coefficients that no float32 holds, over as many evaluations as the format allows."""
    rows = []
    for index in range(6):
        depth = min(index + 1, 4)
        rows.append(
            SamplerRow(
                u=tuple(1.1 / (place + 1 + 0.3 * index) for place in range(depth)),
                m=tuple((-1.0) ** place * 0.7 / (place + 3.0) for place in range(depth)),
                level=(0.1 * index, 1.0 - 0.1 * index),
                clean=(1.0, -1.0 + index / 7.0),
            )
        )
    return SamplerTable(
        steps=6, times=tuple(999.0 - 166.5 * i for i in range(6)), first=14.6146, rows=tuple(rows)
    )


def _ancestral() -> SamplerTable:
    """Fresh noise in some rows, no levels, more evaluations than steps."""
    rows = tuple(
        SamplerRow(u=(1.0 / 3.0,), m=(-0.123456789,), noise=0.0 if index == 4 else 0.9 / (index + 1))
        for index in range(5)
    )
    return SamplerTable(steps=3, times=(1.0, 0.9, 0.5, 0.3, 0.1), first=0.7071067811865476, rows=rows)
