"""A measured run as one typed value: what ``mf-bench`` writes, and what apps on phones write in the same form.

``python -m microforge.bundle.measurements`` prints the JSON Schema (docs/bench_row.schema.json). Times are in seconds,
memory in bytes. What a device cannot measure is null, never zero. It lies here, and not with the benchmarks,
because ``mf-export tune --measured`` reads rows too. No torch.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from microforge.bundle.entry import Entry, Role
from microforge.bundle.targets import Precision, TargetName
from microforge.errors import DataError

Seconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Loading = Literal["resident", "staged"]
Mechanism = Literal["cgroup-v2-scope", "rlimit-data", "system"]


class Spread(Entry):
    """Summary of repeated measurements of one thing; ``p90`` is the smallest value that nine in ten do not exceed."""

    count: Count
    median: Seconds
    p90: Seconds
    least: Seconds


class Latency(Entry):
    """``cold_load``: from the start of a process to all networks ready, files not in the page cache where the
    system lets them be dropped. ``first_image``: from the start of another process to its first image."""

    cold_load: Seconds | None = None
    first_image: Seconds | None = None
    warm_image: Spread | None = None
    stages: dict[Role, Spread] = Field(default={})
    step: Spread | None = None
    cpu_per_image: Seconds | None = None


class MemoryUse(Entry):
    """Of the whole process: ``base`` is with the engine loaded and no network; ``stages`` the peak RSS while each
    stage loads and runs; ``timeline`` is (s, RSS bytes)."""

    base: Bytes | None = None
    peak_rss: Bytes | None = None
    peak_pss: Bytes | None = None
    stages: dict[Role, Bytes] = Field(default={})
    timeline: tuple[tuple[Seconds, Bytes], ...] = ()


class Limit(Entry):
    """A hard limit on memory, what enforced it, and whether the run lived under it."""

    bytes: Bytes
    mechanism: Mechanism
    survived: bool


class Drift(Entry):
    """Thermal drift: the median image time of the last quarter of a run over that of its first quarter."""

    images: Count
    ratio: Annotated[float, Field(gt=0)]


class Operator(Entry):
    """All nodes of one kind in one component, over one evaluation of it."""

    component: str
    operator: str
    nodes: Count
    seconds: Seconds


class Candidate(Entry):
    """One evaluation of a component with ``scheme`` for one operator ``group`` ("all" for every group), beside
    fp32 in the same run. The schemes are those of an INT8 recipe (docs/quantization.md)."""

    component: Role
    group: Annotated[str, Field(min_length=1)] = "all"
    scheme: Annotated[str, Field(min_length=1)]
    seconds: Annotated[float, Field(gt=0)]
    fp32_seconds: Annotated[float, Field(gt=0)]


class Environment(Entry):
    """Where it ran. ``runtime`` is the implementation of the runtime, ``engine`` the inference engine's name."""

    device: str
    system: str
    processor: str
    cores: Count
    ram: Bytes | None = None
    runtime: Literal["python", "kotlin", "swift", "typescript"]
    engine: str
    engine_version: str


class Row(Entry):
    """One bundle, engine, size and thread count on one device."""

    schema_version: Literal[1] = 1
    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    model: str
    target: TargetName
    precision: Precision
    height: Count
    width: Count
    steps: Count
    threads: Count | None
    loading: Loading
    download: Bytes
    created: str
    environment: Environment
    latency: Latency = Latency()
    memory: MemoryUse = MemoryUse()
    drift: Drift | None = None
    limit: Limit | None = None
    failure: str | None = None
    operators: tuple[Operator, ...] = ()
    candidates: tuple[Candidate, ...] = ()

    @model_validator(mode="after")
    def _a_dead_run_says_why(self) -> Self:
        if self.limit is not None and not self.limit.survived and self.failure is None:
            raise ValueError("a run that did not survive its limit needs a failure")
        return self


def spread(values: Sequence[float]) -> Spread:
    """Summary of at least one measurement."""
    ordered = sorted(values)
    ninth = ordered[math.ceil(0.9 * len(ordered)) - 1]
    return Spread(count=len(ordered), median=statistics.median(ordered), p90=ninth, least=ordered[0])


def drift(values: Sequence[float]) -> Drift | None:
    """Drift over a run in its order; None for fewer than eight images, whose quarters say nothing."""
    quarter = len(values) // 4
    if quarter < 2:
        return None
    ratio = statistics.median(values[-quarter:]) / statistics.median(values[:quarter])
    return Drift(images=len(values), ratio=ratio)


def read_rows(path: Path) -> tuple[Row, ...]:
    """The row, or list of rows, in a JSON file.

    Raises:
        DataError: for a file that cannot be read, or holds anything else.
    """
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    entries = values if isinstance(values, list) else [values]
    try:
        return tuple(Row.model_validate_json(json.dumps(entry), strict=True) for entry in entries)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "row"
        raise DataError(f"{path}: {where}: {problem['msg']} (docs/bench_row.schema.json)") from None


def schema_text() -> str:
    """JSON Schema (draft 2020-12) of one row, as checked in."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**draft, **Row.model_json_schema()}, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
