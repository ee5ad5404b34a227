"""Does a bundle fit a device? Predicted peak memory of every stage, for both ways to load the stages.

resident: all stages stay loaded between images. staged: each is loaded for its turn and freed after it, as
``microforge_runtimes.Generator`` does unless told to keep them. Peaks are of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from microforge.bundle.devices import DeviceProfile
from microforge.bundle.files import Bundle
from microforge.bundle.manifest import DRAWING, Role
from microforge.errors import BundleError, SpecError

Mode = Literal["resident", "staged"]
MODES: tuple[Mode, ...] = ("resident", "staged")
MB = 1_000_000


@dataclass(frozen=True)
class Overhead:
    """What an engine adds.

    ``process``: bytes of a process that has loaded the engine, the tokenizer and a first network of no size.
    ``node``: bytes held for every node of a graph. ``activations``: bytes held for each byte that lives at the
    worst moment, by role. ``loading``: bytes at the peak of a load for each byte of the weights that the engine
    packs in an order of its own before it lets go of the file's.
    """

    process: int
    node: int
    activations: Mapping[Role, float]
    loading: float


#: Fitted by ``python benchmarks/calibrate_memory.py`` to nano, tiny, small and base at 128 to 512 px, both loading modes
#: (figures in docs/devices.md: all within 10 %). onnx: onnxruntime 1.32, x86-64 Linux, 1 thread. Its arena grows
#: by doubling in the first run and gets a planned block in the second, and it runs nodes in another order than
#: they are written in: hence the factors of activations; only convolutions are packed while the file's weights
#: are still held. executorch: the model's part is fitted; the binding for Python brings torch along (0.7 GB),
#: which no phone does, so ``process`` is taken from onnx: an assumption.
OVERHEADS: Mapping[str, Overhead] = {
    "onnx": Overhead(
        process=90 * MB, node=5_000, loading=1.22,
        activations={"text_encoder": 5.5, "denoiser": 4.4, "vae_decoder": 2.0},
    ),
    "executorch": Overhead(
        process=90 * MB, node=0, loading=2.0,
        activations={"text_encoder": 1.0, "denoiser": 1.0, "vae_decoder": 1.0},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class StageBudget:
    """One stage: bytes of its weights and activations as the engine holds them, and at the peak of its load."""

    role: Role
    component: str
    weights: int
    activations: int
    loading: int

    @property
    def held(self) -> int:
        return self.weights + self.activations

    @property
    def peak(self) -> int:
        return max(self.held, self.loading)


@dataclass(frozen=True)
class MemoryFit:
    """The answer. ``peaks`` holds the process's bytes while each stage runs, by mode and role; ``mode`` is the
    one to choose, None when nothing fits."""

    device: DeviceProfile
    target: str
    size: str
    stages: tuple[StageBudget, ...]
    peaks: Mapping[Mode, Mapping[Role, int]]
    mode: Mode | None
    reason: str

    @property
    def fits(self) -> bool:
        return self.mode is not None


def predict(bundle: Bundle, target: str, size: tuple[int, int] | None = None) -> tuple[StageBudget, ...]:
    """Memory of every stage that drawing needs, in the order in which they run.

    Weights and activations come from the manifest where the engine's plan has told them at export, else from
    a liveness analysis of the ONNX graph (``microforge_export.memory.liveness``).

    Raises:
        BundleError: for a target, size or component that the bundle lacks, or a target nothing is known of.
        MissingExtraError: when onnx is needed and not installed.
    """
    known = bundle.target(target)
    if target not in OVERHEADS:
        raise BundleError(f"no memory plan for target {target}; fit knows: {', '.join(OVERHEADS)}")
    entry, overhead, stages = bundle.size(size), OVERHEADS[target], []
    for role in DRAWING:
        key, _ = bundle.component(role, None if role == "text_encoder" else entry.size)
        if key in known.memory:
            plan = known.memory[key]
            counts = plan.weights, plan.activations, round(plan.weights * overhead.loading)
        else:
            counts = _of_graph(bundle, target, key, overhead)
        weights, activations, loading = counts
        stages.append(
            StageBudget(role, key, weights, round(activations * overhead.activations[role]), loading)
        )
    return tuple(stages)


def _of_graph(bundle: Bundle, target: str, key: str, overhead: Overhead) -> tuple[int, int, int]:
    """Bytes of weights with the graph's own, of activations, and at the peak of loading."""
    if target != "onnx":
        raise BundleError(f"{bundle.path} says no memory for {target} {key}; build the bundle again")
    from microforge import onnx_shapes  # says which extra is missing
    from microforge_export.memory import liveness

    found = liveness.graph_memory(onnx_shapes.read_graph(bundle.file(target, key)))
    weights = found.weights + found.nodes * overhead.node
    return weights, found.activations, weights + round(found.convolved * (overhead.loading - 1))


def peaks(stages: tuple[StageBudget, ...], process: int) -> dict[Mode, dict[Role, int]]:
    """Bytes of the process while each stage loads and first runs.

    Resident stages stay, with what they hold for their activations. Staged ones leave nothing behind
    (``microforge_runtimes.engines.allocator``).
    """
    resident, before = {}, process
    for stage in stages:
        resident[stage.role] = before + stage.peak
        before += stage.held
    staged = {stage.role: process + stage.peak for stage in stages}
    return {"resident": resident, "staged": staged}


def fit(
    bundle: Bundle,
    device: DeviceProfile,
    target: str,
    size: tuple[int, int] | None = None,
    mode: str = "auto",
) -> MemoryFit:
    """Whether ``bundle`` fits ``device``, and how to load it.

    Args:
        mode: "resident", "staged", or "auto": resident where it fits, since every later image is quicker.

    Raises:
        SpecError: for another mode. BundleError, MissingExtraError: as ``predict``.
    """
    if mode not in ("auto", *MODES):
        raise SpecError(f"mode is {mode!r}; allowed: auto, {', '.join(MODES)}")
    stages = predict(bundle, target, size)
    found = peaks(stages, OVERHEADS[target].process)
    allowed: tuple[Mode, ...] = MODES if mode == "auto" else (cast(Mode, mode),)
    worst = {name: max(found[name].values()) for name in MODES}
    chosen = next((name for name in allowed if worst[name] <= device.budget_bytes), None)
    reason = _reason(found, worst, device, allowed, chosen)
    return MemoryFit(device, target, str(bundle.size(size).size), stages, found, chosen, reason)


def _reason(
    found: Mapping[Mode, Mapping[Role, int]], worst: Mapping[Mode, int], device: DeviceProfile,
    allowed: tuple[Mode, ...], chosen: Mode | None,
) -> str:  # fmt: skip
    budget = f"the {_mb(device.budget_bytes)} that an app may use of {device.name}"
    if chosen is None:
        least = min(allowed, key=lambda name: worst[name])
        stage = max(found[least], key=lambda role: found[least][role])
        return f"{least}: the {stage} needs {_mb(worst[least])}, more than {budget}"
    if chosen == "staged" and "resident" in allowed:
        return f"staged: {_mb(worst['staged'])} of {budget}; resident would need {_mb(worst['resident'])}"
    return f"{chosen}: {_mb(worst[chosen])} of {budget}"


def _mb(count: int) -> str:
    return f"{count / MB:,.0f} MB"
