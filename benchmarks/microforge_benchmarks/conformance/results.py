"""What a runtime says of its replayed trajectories: the JSON that its own program writes, and the table of all runtimes.

``{"runtime": "kotlin", "engine": "ONNX Runtime 1.29.0", "trajectories": [...]}`` with one ``ReplayedTrajectory`` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from microforge.bundle.entry import Entry, Line, Name
from microforge.bundle.targets import Precision
from microforge.errors import DataError


class ReplayedTrajectory(Entry):
    """A golden trajectory of a bundle, generated again.

    Attributes:
        bundle: id of the bundle.
        worst_pixel: largest difference of any value of the image, in 1/255.
        psnr_db: of the image in [0, 1]; None where nothing differs.
        limit: what the manifest demands, in words.
        passed: whether ids and noise were equal and the image is within the limit.
    """

    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    model: Line
    precision: Precision
    task: Name
    size: Annotated[str, Field(pattern=r"^[0-9]+x[0-9]+$")]
    worst_pixel: Annotated[float, Field(ge=0)]
    psnr_db: float | None
    limit: Line
    passed: bool


class RuntimeReport(Entry):
    """All trajectories that one runtime replayed on one engine."""

    runtime: Literal["python", "kotlin", "swift", "typescript"]
    engine: Line
    trajectories: Annotated[tuple[ReplayedTrajectory, ...], Field(min_length=1)]


class ConformanceResults(Entry):
    """What ``conformance/results.json`` holds."""

    format: Literal[1] = 1
    runtimes: Annotated[tuple[RuntimeReport, ...], Field(min_length=1)]

    @property
    def passed(self) -> bool:
        return all(item.passed for report in self.runtimes for item in report.trajectories)


def read_report(path: Path) -> RuntimeReport:
    """The report that a runtime's program wrote.

    Raises:
        DataError: when it cannot be read or is none.
    """
    try:
        return RuntimeReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "report"
        raise DataError(f"{path}: {where}: {problem['msg']} (see conformance/CONFORMANCE.md)") from None


def results_page(results: ConformanceResults) -> str:
    """A Markdown page with one table: a row per runtime, task, size and precision."""
    rows = [
        f"| {report.runtime} | {report.engine} | {item.task} | {item.size} | {item.precision} | {item.worst_pixel:.4f} "
        f"| {'equal' if item.psnr_db is None else f'{item.psnr_db:.1f}'} | {item.limit} | {'pass' if item.passed else 'FAIL'} |"
        for report in results.runtimes
        for item in report.trajectories
    ]
    return "\n".join([*_HEAD, *rows, ""])


_HEAD: Sequence[str] = (
    "# Results of all runtimes",
    "",
    "`make conformance` writes this page. Every row is a golden trajectory of a bundle, generated again: the largest difference of",
    "any value of the image in 1/255, and its PSNR, both against PyTorch in fp32. Token ids and noise must be equal in every row.",
    "",
    "| runtime | engine | task | size | precision | worst pixel | PSNR, dB | limit | |",
    "| --- | --- | --- | --- | --- | ---: | ---: | --- | --- |",
)
