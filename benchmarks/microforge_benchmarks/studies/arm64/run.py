"""Drawing in processes of their own: emulated Arm, this processor with the same engine version, and as installed."""

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
    LEAST_IMAGE_DB,
    Comparison,
    Report,
    compare,
)
from microforge_benchmarks.studies.arm64.draw import Drawing, load, open_generator
from microforge_benchmarks.studies.arm64.emulation import (
    ONNXRUNTIME,
    PROCESSOR,
    QEMU,
    Machine,
    emulated,
    make_native_engine,
    make_root,
    make_site,
    native,
)

DRAW = "microforge_benchmarks.studies.arm64.draw"


@dataclass(frozen=True)
class Wish:
    """What to draw; ``timeout`` in seconds per drawing."""

    prompt: str
    seed: int
    timeout: float

    def check(self, bundle: Bundle) -> None:
        """Refuse what no engine could draw, or what has no limit to be held against.

        Raises:
            BundleError: for a bundle without onnx, without the task generate, or of another precision.
            PromptError, SpecError: for a prompt or seed that is not allowed.
        """
        precision = bundle.target("onnx").precision
        if precision not in LEAST_IMAGE_DB:
            raise BundleError(f"{bundle.path} is {precision}; compared are: {', '.join(LEAST_IMAGE_DB)}")
        open_generator(bundle).check(self.prompt, self.seed)


def run_all(
    bundles: Sequence[Bundle], wish: Wish, work: Path, version: str | None, tell: Callable[[str], None]
) -> Report:
    """Make the Arm Python in ``work``, draw every bundle on it, and compare.

    The reference is this processor with the engine that is installed. The Arm engine's ``version`` also draws on
    this processor, which tells what the version changes from what the processor changes.

    Raises:
        SpecError: when this processor is not x86-64. OutputError: when the Python cannot be made.
        BundleError: when a drawing fails.
    """
    if platform.machine() != "x86_64":
        raise SpecError(f"this processor is {platform.machine()}; the comparison needs x86-64")
    version = version or ONNXRUNTIME
    tell(f"making the Arm Python in {work}")
    root = make_root(work)
    subjects = (
        emulated(root.absolute(), make_site(work, version, root).absolute()),
        native(make_native_engine(work, version).absolute()),
    )
    found: list[Comparison] = []
    for bundle in bundles:
        reference = drawn_by(native(), bundle, wish)
        for machine in subjects:
            tell(f"drawing {bundle.path} on {machine.name} with ONNX Runtime {version}")
            found.append(comparison(bundle, wish, drawn_by(machine, bundle, wish), reference))
    return Report(FORMAT, emulator_version(), PROCESSOR, tuple(found))


def drawn_by(machine: Machine, bundle: Bundle, wish: Wish) -> Drawing:
    """One drawing in a fresh process on ``machine``.

    Raises:
        BundleError: when the process fails, with the last line it said, or takes too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "drawing.npz"
        words = machine.module(DRAW, str(bundle.path.absolute()), wish.prompt, str(wish.seed), str(out))
        result = run_group(words, wish.timeout)
        if result is None:
            raise BundleError(
                f"{bundle.path}: no drawing on {machine.name} after {wish.timeout:g} s; give --timeout more"
            )
        status, _, errors = result
        if status:
            lines = [line for line in errors.splitlines() if line.strip()]
            ended = f"signal {-status}" if status < 0 else f"exit code {status}"
            last = f": {' '.join(lines[-1].split())[:300]}" if lines else ""
            raise BundleError(f"{bundle.path}: the drawing on {machine.name} ended with {ended}{last}")
        return load(out)


def comparison(bundle: Bundle, wish: Wish, subject: Drawing, reference: Drawing) -> Comparison:
    """What ``subject`` makes of ``bundle`` beside ``reference``, and whether that is close enough."""
    manifest, precision = bundle.manifest, bundle.target("onnx").precision
    size, difference, least = bundle.manifest.sizes[0], compare(subject, reference), LEAST_IMAGE_DB[precision]
    return Comparison(
        str(manifest.model.get("name")), manifest.provenance.checkpoint_sha256, bundle.id, precision,
        (size.height, size.width), manifest.sampler.steps, wish.prompt, wish.seed, subject.engine, reference.engine,
        difference, least, difference.passes(least),
    )  # fmt: skip


def emulator_version() -> str:
    """The first line of ``qemu-aarch64-static --version``, without its list of patches."""
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].split(" (")[0]
