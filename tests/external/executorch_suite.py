"""Runs the operator cases of ExecuTorch's backend suite (in the executorch wheel) through our INT8 export.

``python tests/external/executorch_suite.py --out docs/external/executorch_suite.json``

Every case is a module and its inputs. It is traced, quantized with our quantizer (each weight at the first scheme that
its operator supports), lowered with our rewrites to XNNPACK, and run by ExecuTorch. A case ends as

    equal                outputs without quantized weights agree with PyTorch
    near                 outputs with quantized weights are near PyTorch's, see MIN_QUANTIZED_DB
    refused              our export refuses the module in one line
    no kernel            ExecuTorch refuses to load the program: an operator has no kernel, as a build's check would report
    not run by PyTorch   the case itself does not run, or has no tensors that a bundle could declare
    different, crashed   defects: exit 1
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import sys
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import executorch.backends.test.suite.operators as operators
import numpy as np
import torch
import typer
from executorch.backends.test.harness import Tester
from executorch.backends.test.suite.flow import TestFlow
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

from microforge.components.networks import tensor
from microforge.errors import GraphLintError, MicroForgeError
from microforge.io.atomic import atomic_bytes
from microforge.io.console import command_app, run
from microforge_export.components.component import SourceComponent, trace
from microforge_export.quantization.executorch_quantizer import quantize, supported_schemes
from microforge_export.targets.executorch.lower import lower_all, refusing

app = command_app("Run ExecuTorch's operator suite through the INT8 export.")
#: Signal-to-error ratio of outputs behind one quantized layer: static ranges leave about 8 bits.
MIN_QUANTIZED_DB = 20.0
#: The suite's own, absolute and relative to the largest output.
TOLERANCE = 1e-3
_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.int64: "int64", torch.int32: "int32"}


@dataclass(frozen=True)
class Case:
    """A module of the suite with its inputs."""

    name: str
    module: torch.nn.Module
    inputs: tuple[Any, ...]


class _Recorder:
    """Stands in for the suite's runner and keeps what a case would run."""

    def __init__(self, name: str) -> None:
        self._flow = TestFlow("microforge", "xnnpack", tester_factory=Tester)
        self.name = name
        self.cases: list[Case] = []

    def lower_and_run_model(self, model: torch.nn.Module, inputs: Any, **options: object) -> None:
        self.cases.append(Case(f"{self.name}[{len(self.cases)}]", model.eval(), tuple(inputs)))


def suite_cases() -> Iterator[Case]:
    """Every case of the suite's operators, with float32 where a case is given a type."""
    for info in pkgutil.iter_modules(operators.__path__):
        if not info.name.startswith("test_"):
            continue
        module = importlib.import_module(f"{operators.__name__}.{info.name}")
        for name in sorted(vars(module)):
            function = getattr(module, name)
            if not name.startswith("test_") or not callable(function):
                continue
            torch.manual_seed(0)
            recorder = _Recorder(name)
            takes_dtype = "dtype" in inspect.signature(function).parameters
            try:
                function(recorder, torch.float32) if takes_dtype else function(recorder)
            except unittest.SkipTest:  # the suite skips it for every backend
                continue
            yield from recorder.cases


def component_of(case: Case, outputs: Sequence[torch.Tensor]) -> SourceComponent:
    """The case as a network of a bundle.

    Raises:
        KeyError: for a type that a bundle has not.
    """
    inputs = tuple(
        tensor(f"input{i}", *value.shape, dtype=_DTYPES[value.dtype]) for i, value in enumerate(case.inputs)
    )
    results = tuple(
        tensor(f"output{i}", *value.shape, dtype=_DTYPES[value.dtype]) for i, value in enumerate(outputs)
    )
    return SourceComponent("case", "denoiser", None, case.module.requires_grad_(False), inputs, results)


def exported(component: SourceComponent, case: Case) -> tuple[bytes, bool]:
    """The case's ``.pte``, and whether it has quantized weights; raises what our export raises."""
    with refusing(case.name):
        program = trace(component)
    schemes = {group: allowed[0] for group, allowed in supported_schemes(program).items()}
    recorded = [{spec.name: value.numpy() for spec, value in zip(component.inputs, case.inputs, strict=True)}]
    with refusing(case.name):
        artefacts = lower_all(
            [component],
            {component.key: quantize(component, program, schemes, recorded) if schemes else program},
        )
        artefacts.lint()
        return bytes(artefacts.programs[component.family].to_executorch().buffer), bool(schemes)


def _decibels(expected: Any, output: Any) -> float:
    """Ratio of the outputs' power to that of their error."""
    error = float(np.mean((output - expected) ** 2))
    return 10 * float(np.log10(max(float(np.mean(expected**2)), 1e-12) / max(error, 1e-30)))


def _agree(expected: torch.Tensor, output: torch.Tensor, quantized: bool) -> bool:
    if expected.shape != output.shape or expected.dtype != output.dtype:
        return False
    one, other = expected.double().numpy(), output.double().numpy()
    if not quantized:
        scale = float(np.abs(one[np.isfinite(one)]).max(initial=1.0))
        return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True))
    return _decibels(one, other) >= MIN_QUANTIZED_DB


def outcome(case: Case) -> str:
    """How one case ends."""
    try:
        with torch.no_grad():
            result = case.module(*case.inputs)
        expected = [result] if isinstance(result, torch.Tensor) else list(result)
        component = component_of(case, expected)
    except Exception as error:  # whatever the case itself raises
        return f"not run by PyTorch: {type(error).__name__}"
    try:
        program, quantized = exported(component, case)
    except MicroForgeError as error:
        return f"refused: {error}" if isinstance(error, GraphLintError) else f"crashed: {error}"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {str(error)[:160]}"
    try:
        outputs = _load_for_executorch_from_buffer(program).run_method(component.key, case.inputs)
    except Exception as error:
        return f"no kernel: {str(error)[:120]}"
    if not all(_agree(one, other, quantized) for one, other in zip(expected, outputs, strict=True)):
        return "different: outputs differ"
    return "near" if quantized else "equal"


@app.command(
    epilog="Example: python tests/external/executorch_suite.py --out build/external/executorch_suite.json --force"
)
def main(
    out: Annotated[Path, typer.Option(help="JSON file with the counts.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> int:
    """Run every case and count how each ends."""
    counts: Counter[str] = Counter()
    refusals: dict[str, str] = {}
    defects: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the suite uses what torch has deprecated
        cases = list(suite_cases())
        for number, case in enumerate(cases, 1):
            if number % 50 == 0:
                print(f"{number} of {len(cases)} cases", file=sys.stderr, flush=True)
            result = outcome(case)
            kind = result.split(":", 1)[0]
            counts[kind] += 1
            if kind in ("refused", "no kernel"):
                refusals[case.name] = result[:160]
            elif kind in ("different", "crashed"):
                defects[case.name] = result
    values = {"outcomes": dict(sorted(counts.items())), "refusals": refusals, "defects": defects}
    atomic_bytes(out, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(), force)
    print(json.dumps(values, indent=1, ensure_ascii=False), file=sys.stderr)
    return 1 if defects else 0


if __name__ == "__main__":
    run(app)
