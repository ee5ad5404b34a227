"""Nothing that the product reads can run code: no pickle, no eval, no loader that does either; held over its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("microforge", "export", "runtimes", "benchmarks", "scripts", "examples")
#: Modules that read objects by running what a file says.
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "jsonpickle",
    "pandas",
}
#: Functions that run text, or unpickle unless told otherwise.
BUILTINS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"torch.load", "torch.hub.load", "numpy.load", "np.load", "torch.jit.load", "numpy.fromfile_pickle"}
#: A loader that may be called with its safety spelled out.
SAFE_KEYWORDS = {"numpy.load": ("allow_pickle", False), "np.load": ("allow_pickle", False)}


def unsafe_uses(source: str) -> Iterator[str]:
    """What in Python ``source`` could run code of a file that is read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node)


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    keywords = {item.arg: item.value for item in node.keywords}
    allowed = keywords.get("allow_pickle")
    if isinstance(allowed, ast.Constant) and allowed.value is not False:
        yield f"{name}(allow_pickle=...)"
    weights_only = keywords.get("weights_only")
    if isinstance(weights_only, ast.Constant) and weights_only.value is False:
        yield f"{name}(weights_only=False)"
    if isinstance(node.func, ast.Name) and name in BUILTINS:
        yield name
    if name in LOADERS and not (name in SAFE_KEYWORDS and _is_off(allowed)):
        yield name


def _is_off(value: ast.expr | None) -> bool:
    """``allow_pickle=False``, or left out: numpy's own default since 1.16.3."""
    return value is None or (isinstance(value, ast.Constant) and value.value is False)


def test_no_source_of_the_product_could_run_code_of_a_file() -> None:
    uses = [
        f"{path.relative_to(ROOT)}: {use}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for use in unsafe_uses(path.read_text("utf-8"))
    ]
    assert uses == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import yaml", "import torch\ntorch.load('x')", "import numpy as np\nnp.load('x', allow_pickle=True)",
        "eval('1')", "exec(text)", "import marshal", "x = torch.hub.load('a', 'b')", "f(weights_only=False)",
    ],
)  # fmt: skip
def test_the_scan_notices_each_kind(source: str) -> None:
    assert list(unsafe_uses(source))


def test_the_scan_passes_methods_of_other_things() -> None:
    harmless = (
        "model.eval()\nre.compile('x')\nnp.load('x', allow_pickle=False)\njson.load(f)\ntorch.compile(m)"
    )
    assert list(unsafe_uses(harmless)) == []
