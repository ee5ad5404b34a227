"""Samples in processes of their own: on emulated Arm, and on this processor with two versions of the engine."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from microforge.bundle.files import Bundle
from microforge.errors import BundleError, SpecError
from microforge_benchmarks.measure.latency import run_group
from microforge_benchmarks.studies.arm64.compare import (
    FORMAT,
    MIN_IMAGE_DB,
    Arm64Report,
    EngineComparison,
    sample_difference,
)
from microforge_benchmarks.studies.arm64.emulation import (
    ONNXRUNTIME,
    PROCESSOR,
    QEMU,
    PythonCommand,
    emulated,
    make_native_engine,
    make_root,
    make_site,
    native,
)
from microforge_benchmarks.studies.arm64.traced_sample import TracedSample, load_sample, open_generator
from microforge_runtimes.request import Request

MODULE = "microforge_benchmarks.studies.arm64.traced_sample"


@dataclass(frozen=True)
class SampleSettings:
    """Prompt and seed of the sample, and the timeout in seconds of each process."""

    prompt: str
    seed: int
    timeout: float

    def check(self, bundle: Bundle) -> None:
        """Refuse what no engine could generate, and precisions without a limit.

        Raises:
            BundleError: when the bundle has no target onnx, no task generate, or another precision.
            PromptError: when the prompt is not allowed.
            SpecError: when the seed is not allowed.
        """
        precision = bundle.target("onnx").precision
        if precision not in MIN_IMAGE_DB:
            raise BundleError(
                f"{bundle.path} is {precision}; precisions with a limit: {', '.join(MIN_IMAGE_DB)}"
            )
        open_generator(bundle).check(Request(self.prompt, seed=self.seed))


def run_all(
    bundles: Sequence[Bundle], settings: SampleSettings, work: Path, version: str | None,
    say: Callable[[str], None],
) -> Arm64Report:  # fmt: skip
    """Prepare the Arm Python in ``work``, generate a sample of every bundle with it, and compare the samples.

    The reference is this processor with the installed engine. The Arm engine's ``version`` also runs on this processor,
    which separates the effect of the version from that of the processor.

    Raises:
        SpecError: when this processor is not x86-64.
        OutputError: when the Arm Python cannot be prepared.
        BundleError: when a sample cannot be generated.
    """
    if platform.machine() != "x86_64":
        raise SpecError(f"this processor is {platform.machine()}; the comparison needs x86-64")
    version = version or ONNXRUNTIME
    say(f"preparing the Arm Python in {work}")
    root = make_root(work)
    pythons = (
        emulated(root.absolute(), make_site(work, version, root).absolute()),
        native(make_native_engine(work, version).absolute()),
    )
    comparisons: list[EngineComparison] = []
    for bundle in bundles:
        reference = sample_on(native(), bundle, settings)
        for python in pythons:
            say(f"generating with {bundle.path} on {python.name} with ONNX Runtime {version}")
            comparisons.append(comparison(bundle, settings, sample_on(python, bundle, settings), reference))
    return Arm64Report(FORMAT, emulator_version(), PROCESSOR, tuple(comparisons))


def sample_on(python: PythonCommand, bundle: Bundle, settings: SampleSettings) -> TracedSample:
    """Generate a sample in a new process of ``python``.

    Raises:
        BundleError: when the process fails, or takes too long; the message has the last line of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sample.npz"
        arguments = (str(bundle.path.absolute()), settings.prompt, str(settings.seed), str(out))
        result = run_group(python.module(MODULE, *arguments), settings.timeout)
        if result is None:
            raise BundleError(
                f"{bundle.path}: no sample on {python.name} after {settings.timeout:g} s; give --timeout more"
            )
        status, _, errors = result
        if status:
            lines = [line for line in errors.splitlines() if line.strip()]
            ended = f"signal {-status}" if status < 0 else f"exit code {status}"
            last = f": {' '.join(lines[-1].split())[:300]}" if lines else ""
            raise BundleError(f"{bundle.path}: the sample on {python.name} ended with {ended}{last}")
        return load_sample(out)


def comparison(
    bundle: Bundle, settings: SampleSettings, sample: TracedSample, reference: TracedSample
) -> EngineComparison:
    """Compare a sample of ``bundle`` with the reference."""
    manifest, precision = bundle.manifest, bundle.target("onnx").precision
    size, difference = manifest.sizes[0], sample_difference(sample, reference)
    least_db = MIN_IMAGE_DB[precision]
    return EngineComparison(
        model=manifest.model.name,
        checkpoint_sha256=manifest.provenance.checkpoint_sha256,
        bundle=bundle.id,
        precision=precision,
        size=(size.height, size.width),
        steps=manifest.steps,
        prompt=settings.prompt,
        seed=settings.seed,
        tested_engine=sample.engine,
        reference_engine=reference.engine,
        difference=difference,
        least_db=least_db,
        passed=difference.passes(least_db),
    )


def emulator_version() -> str:
    """First line of ``qemu-aarch64-static --version``, without its list of patches."""
    output = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return output.splitlines()[0].split(" (")[0]
