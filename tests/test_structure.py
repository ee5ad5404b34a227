"""The shape of the source tree: no import circles, no crowded folder, no overlong file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "microforge": ROOT / "microforge",
    "microforge_export": ROOT / "export" / "microforge_export",
    "microforge_runtimes": ROOT / "runtimes" / "microforge_runtimes",
    "microforge_benchmarks": ROOT / "benchmarks" / "microforge_benchmarks",
}
MAX_MODULES = 20
MAX_LINES = 350
#: The same notion in PyTorch and in numpy.
_SHARED_NAMES = {"Conditioning"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """All imports of the four packages, those inside functions included."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_imports_have_no_circle(graph: grimp.ImportGraph) -> None:
    remaining = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := {module for module, imported in remaining.items() if not imported & remaining.keys()}:
        remaining = {module: imported for module, imported in remaining.items() if module not in leaves}
    assert not remaining, f"these modules import one another in a circle, or import such: {sorted(remaining)}"


def test_no_folder_has_more_than_twenty_modules() -> None:
    counts = Counter(
        path.parent.relative_to(ROOT)
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {str(folder): count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_no_source_file_has_more_than_350_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines())
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_public_class_names_are_unique_across_packages() -> None:
    """A reader who meets a class name knows which class it is, without looking at the import."""
    places: dict[str, list[str]] = {}
    for folder in PACKAGES.values():
        for path in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    repeated = {name: paths for name, paths in places.items() if len(paths) > 1 and name not in _SHARED_NAMES}
    assert repeated == {}
