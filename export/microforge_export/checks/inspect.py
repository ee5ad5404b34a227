"""The content of a bundle, as tables or as JSON values, from its manifest and its report. No torch."""

from __future__ import annotations

import json
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import Manifest, TensorSpec
from microforge.bundle.targets import Coverage, Memory, Target
from microforge_export.checks.metrics import image_metrics

#: The file that a build writes beside the manifest, for people.
REPORT = "report.json"


def bundle_values(bundle: Bundle) -> dict[str, Any]:
    """The bundle as JSON values: id, sizes, components with shapes, and per target files and measurements."""
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.path),
        "id": bundle.id,
        "name": manifest.model.name,
        "tasks": list(manifest.tasks),
        "sizes": [str(entry.size) for entry in manifest.sizes],
        "steps": manifest.steps,
        "components": {key: item.model_dump(mode="json") for key, item in manifest.components.items()},
        "targets": {
            name: {**target.model_dump(mode="json"), "bytes": target_bytes(target)}
            for name, target in manifest.targets.items()
        },
        "bytes": sum(entry.bytes for entry in bundle.files()),
        "static_analysis": analysis(bundle),
        "provenance": manifest.provenance.model_dump(mode="json"),
    }


def target_bytes(target: Target) -> int:
    """Size of all files of a target."""
    return sum(entry.bytes for entry in target.entries())


def bundle_tables(bundle: Bundle) -> RenderableType:
    """The bundle as tables: one of facts, one of components per target."""
    manifest = bundle.manifest
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(bundle):
        facts.add_row(name, value)
    tables = (_target_table(manifest, name, target) for name, target in manifest.targets.items())
    return Group(facts, *tables, *analysis_lines(bundle))


def analysis(bundle: Bundle) -> dict[str, Any]:
    """Support by accelerators and range of half precision by target, from the report; empty without a readable one."""
    try:
        targets = json.loads(bundle.locate(REPORT).read_text("utf-8"))["targets"]
        return {
            name: {what: dict(target.get(what, {})) for what in ("usability", "half_range")}
            for name, target in targets.items()
            if target.get("usability")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the report is for people: a bundle without one is complete


def analysis_lines(bundle: Bundle) -> list[str]:
    """The same in sentences, one per component and accelerator."""
    lines: list[str] = []
    for name, report in analysis(bundle).items():
        for key, accelerators in report["usability"].items():
            for accelerator, value in accelerators.items():
                pieces = f" in {value['partitions']} pieces" if value["partitions"] else ""
                lacks = f"; not: {', '.join(value['unsupported'])}" if value["unsupported"] else ""
                lines.append(
                    f"{name} {key} on {accelerator} ({value['method']}): {value['supported']} of {value['nodes']} "
                    f"operators{pieces}{lacks}"
                )
        for key, value in report["half_range"].items():
            verdict = "may overflow half precision" if value["risk"] else "fits half precision"
            lines.append(f"{name} {key}: values up to {value['largest']:.4g} ({value['tensor']}), {verdict}")
    return lines


def _facts(bundle: Bundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    scales = (
        ", ".join(f"{name} {scale.default:g}" for name, scale in manifest.guidance.items()) or "distilled"
    )
    steps = ", ".join(str(count) for count in dict.fromkeys(table.steps for table in manifest.samplers))
    return [
        ("bundle", f"{bundle.path} ({bundle.id})"),
        ("model", f"{manifest.model.name} {manifest.model.description}".strip()),
        ("licence", manifest.model.licence or "not stated"),
        ("tasks", ", ".join(manifest.tasks)),
        ("sizes", ", ".join(str(entry.size) for entry in manifest.sizes)),
        ("sampler", f"{steps} steps, guidance {scales}"),
        ("bytes", f"{sum(entry.bytes for entry in bundle.files()):,}"),
        ("checkpoint", f"{manifest.provenance.checkpoint_sha256[:12]}, {manifest.provenance.created}"),
        (
            "built with",
            ", ".join(f"{name} {number}" for name, number in manifest.provenance.versions.items()),
        ),
    ]


def _target_table(manifest: Manifest, name: str, target: Target) -> RenderableType:
    table = Table(title=f"{name}, {target.precision}", title_justify="left", box=box.SIMPLE)
    table.add_column("component", overflow="fold")
    table.add_column("tensors", overflow="fold")
    for heading in ("bytes", "PSNR dB", "max abs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key, entry in target.files.items():
        component, parity = manifest.components[key], target.parity.get(key)
        tensors = f"{_tensors('in', component.inputs)}\n{_tensors('out', component.outputs)}"
        measured = (f"{parity.psnr_db:.1f}", f"{parity.max_abs:.1e}") if parity else ("-", "-")
        other = f" ({target.precisions[key]})" if key in target.precisions else ""
        size = entry.bytes + sum(part.bytes for part in target.parts.get(key, ()))
        table.add_row(f"{key}{other}\n{entry.path}", tensors, f"{size:,}", *measured, end_section=True)
    for entry in target.shared_files:
        table.add_row(f"shared by all\n{entry.path}", "", f"{entry.bytes:,}", "", "")
    image = target.image
    worst = f"{image.max_abs_255:.3g}/255 (limit: {image.threshold:g}/255)" if image else "not measured"
    if image and target.quality:  # compared by PSNR over many images: see the metrics below
        worst = f"{image.max_abs_255:.3g}/255"
    operators = ", ".join(f"{count} {operator}" for operator, count in target.operators.items())
    lines = [f"whole image, worst pixel: {worst}", f"operators: {operators}"]
    lines += [f"{task}, worst pixel: {value.max_abs_255:.3g}/255" for task, value in target.tasks.items()]
    for pixels, quality in target.quality.items():
        lines += [
            f"{pixels}, {item.what}: {item.measured()} (limit: {item.needed()})"
            for item in image_metrics(quality)
        ]
    lines += [f"{key}: {_coverage(value)}" for key, value in target.coverage.items()]
    lines += [f"{key}: {_memory(value)}" for key, value in target.memory.items()]
    return Group("", table, *lines)


def _coverage(coverage: Coverage) -> str:
    kind = "delegate" if coverage.delegates == 1 else "delegates"
    outside = "; ".join(f"{name}: {reason}" for name, reason in coverage.outside.items())
    counts = f"{coverage.delegated} of {coverage.operators} operators in {coverage.delegates} {kind}"
    return f"{counts}{f'; outside: {outside}' if outside else ''}"


def _memory(memory: Memory) -> str:
    arena = "" if memory.arena is None else f", of which planned in the file {memory.arena:,}"
    return f"weights {memory.weights:,} bytes, activations {memory.activations:,}{arena}"


def _tensors(side: str, specs: tuple[TensorSpec, ...]) -> str:
    return "\n".join(f"{side:4}{spec.name} {'x'.join(map(str, spec.shape))}" for spec in specs)
