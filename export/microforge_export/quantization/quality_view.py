"""The tables of an INT8 target that was refused, for a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table

from microforge_export.quantization.quality_gate import QualityError


def fault_tables(error: QualityError) -> RenderableType:
    """Every metric beside its limit, and what is at fault."""
    metrics = Table("metric", "measured", "needed", "", title=f"{error.target} in int8", title_justify="left")
    for item in error.metrics:
        verdict = "" if item.met else "[red]falls short[/red]"
        metrics.add_row(item.what, item.measured(), item.needed(), verdict)
    fault = error.fault
    table = Table(title="at fault", title_justify="left")
    for heading in ("component", "operator group", "scheme", "PSNR with it alone", "PSNR without it"):
        table.add_column(heading)
    if fault.group is None:
        table.add_row(fault.component, "not known for this target", "", "", "")
    else:
        figures_of = (f"{fault.alone_db:.1f} dB", f"{fault.without_db:.1f} dB")
        table.add_row(fault.component, fault.group, str(fault.scheme), *figures_of)
    return Group(metrics, table)
