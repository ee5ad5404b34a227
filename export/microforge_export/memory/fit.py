"""Predicts the peak memory of a bundle on a device, for both ways to load its components.

``resident`` keeps all components loaded between images. ``staged`` loads each component for its turn and frees
it afterwards, which is the default of ``microforge_runtimes.Generator``. Peaks are those of the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from microforge.bundle.devices import DeviceProfile
from microforge.bundle.files import Bundle
from microforge.bundle.manifest import StageKind
from microforge.bundle.targets import PeakBytes, TargetName
from microforge.errors import BundleError, SpecError

Mode = Literal["resident", "staged"]
MODES: tuple[Mode, ...] = ("resident", "staged")
MB = 1_000_000


@dataclass(frozen=True)
class Overhead:
    """Memory that an engine needs in addition to the tensors of a graph.

    Attributes:
        process: bytes of a process that has loaded the engine, the tokenizer and an empty network.
        node: bytes per node of a graph.
        activations: bytes held per byte of live activations at their peak, by the kind of stage.
        loading: bytes at the peak of loading per byte of weights that the engine repacks.
    """

    process: int
    node: int
    activations: Mapping[StageKind, float]
    loading: float


#: Fitted by ``python benchmarks/calibrate_memory.py`` to nano, tiny, small and base at 128 to 512 px in both loading
#: modes; docs/devices.md has the results, all within 10 %.
#: onnx: onnxruntime 1.32, x86-64 Linux, 1 thread. The factors of activations are above 1 because its arena grows by
#: doubling in the first run and gets a planned block in the second, and because it reorders nodes. Only the weights
#: of convolutions are repacked while those of the file are still held.
#: executorch: fitted without the Python binding, which loads torch (0.7 GB) and is absent on phones; ``process`` is
#: therefore assumed to be that of onnx.
OVERHEADS: Mapping[str, Overhead] = {
    "onnx": Overhead(
        process=90 * MB, node=5_000, loading=1.22,
        activations={"prompt_encoder": 5.5, "network": 4.4, "decoder": 2.0},
    ),
    "executorch": Overhead(
        process=90 * MB, node=0, loading=2.0,
        activations={"prompt_encoder": 1.0, "network": 1.0, "decoder": 1.0},
    ),
}  # fmt: skip


#: Stages whose factors are fitted.
_KINDS = frozenset({"prompt_encoder", "network", "decoder"})


@dataclass(frozen=True)
class StageBudget:
    """Bytes of one component in an engine: its weights, its activations, and the peak while it is loaded."""

    role: str
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
    """Whether a bundle fits a device.

    Attributes:
        peaks: bytes of the process while each component runs, by loading mode and role.
        mode: the loading mode to use; None if the bundle does not fit.
        reason: one sentence that compares the peak with the budget.
    """

    device: DeviceProfile
    target: str
    size: str
    stages: tuple[StageBudget, ...]
    peaks: Mapping[Mode, Mapping[str, int]]
    mode: Mode | None
    reason: str

    @property
    def fits(self) -> bool:
        return self.mode is not None


def predict(bundle: Bundle, target: str, size: tuple[int, int] | None = None) -> tuple[StageBudget, ...]:
    """Memory of every component that a sample of the default task needs, in running order.

    Weights and activations come from the manifest if the engine planned its memory at export, and otherwise from
    a liveness analysis of the ONNX graph (``microforge_export.memory.liveness``).

    Raises:
        BundleError: if the bundle lacks the target, size or component, or the target has no memory model.
        MissingExtraError: if onnx is needed and not installed.
    """
    known = bundle.target(target)
    if target not in OVERHEADS:
        raise BundleError(f"target {target} has no memory model; allowed: {', '.join(OVERHEADS)}")
    entry, overhead, stages = bundle.size(size), OVERHEADS[target], []
    for stage in bundle.manifest.stages():
        key, _ = bundle.component(stage.role, entry.size)
        if key in known.memory:
            plan = known.memory[key]
            counts = plan.weights, plan.activations, round(plan.weights * overhead.loading)
        else:
            counts = _of_graph(bundle, target, key, overhead)
        weights, activations, loading = counts
        stages.append(
            StageBudget(
                stage.role, key, weights, round(activations * overhead.activations[stage.kind]), loading
            )
        )
    return tuple(stages)


def _of_graph(bundle: Bundle, target: str, key: str, overhead: Overhead) -> tuple[int, int, int]:
    """Bytes of weights and nodes, of activations, and at the peak of loading."""
    if target != "onnx":
        raise BundleError(f"{bundle.path} records no memory for {target} {key}; build the bundle again")
    from microforge import onnx_shapes  # says which extra is missing
    from microforge_export.memory import liveness

    memory = liveness.graph_memory(onnx_shapes.read_graph(bundle.file(target, key)))
    weights = memory.weights + memory.nodes * overhead.node
    return weights, memory.activations, weights + round(memory.convolution_weights * (overhead.loading - 1))


def peaks(stages: tuple[StageBudget, ...], process: int) -> dict[Mode, dict[str, int]]:
    """Bytes of the process while each component is loaded and first run, by loading mode and role.

    A resident component keeps its weights and its activation memory. A staged one frees both
    (``microforge_runtimes.engines.allocator``).
    """
    resident, before = {}, process
    for stage in stages:
        resident[stage.role] = before + stage.peak
        before += stage.held
    staged = {stage.role: process + stage.peak for stage in stages}
    return {"resident": resident, "staged": staged}


def predicted_peaks(bundle: Bundle) -> dict[TargetName, dict[str, PeakBytes]]:
    """Peak bytes of the process for a sample of the default task, by target and size, where they can be predicted."""
    by_target: dict[TargetName, dict[str, PeakBytes]] = {}
    for target in bundle.manifest.targets:
        if target in OVERHEADS and all(stage.kind in _KINDS for stage in bundle.manifest.stages()):
            by_target[target] = {}
            for size in bundle.manifest.sizes:
                stages = predict(bundle, target, (size.height, size.width))
                by_mode = peaks(stages, OVERHEADS[target].process)
                worst = {mode: max(by_mode[mode].values()) for mode in MODES}
                by_target[target][str(size)] = PeakBytes(resident=worst["resident"], staged=worst["staged"])
    return by_target


def fit(
    bundle: Bundle,
    device: DeviceProfile,
    target: str,
    size: tuple[int, int] | None = None,
    mode: str = "auto",
) -> MemoryFit:
    """Predict whether ``bundle`` fits ``device``, and choose how to load it.

    Args:
        bundle: an opened bundle.
        device: the memory budget of an app on a device.
        target: the engine.
        size: height and width in pixels; required if the bundle has several sizes.
        mode: "resident", "staged", or "auto": resident if it fits, because every later image is faster.

    Raises:
        SpecError: if ``mode`` is unknown.
        BundleError: as ``predict``.
        MissingExtraError: as ``predict``.
    """
    if mode not in ("auto", *MODES):
        raise SpecError(f"mode is {mode!r}; allowed: auto, {', '.join(MODES)}")
    stages = predict(bundle, target, size)
    predicted = peaks(stages, OVERHEADS[target].process)
    allowed: tuple[Mode, ...] = MODES if mode == "auto" else (cast(Mode, mode),)
    worst = {name: max(predicted[name].values()) for name in MODES}
    chosen = next((name for name in allowed if worst[name] <= device.budget_bytes), None)
    reason = _reason(predicted, worst, device, allowed, chosen)
    return MemoryFit(device, target, str(bundle.size(size).size), stages, predicted, chosen, reason)


def _reason(
    predicted: Mapping[Mode, Mapping[str, int]], worst: Mapping[Mode, int], device: DeviceProfile,
    allowed: tuple[Mode, ...], chosen: Mode | None,
) -> str:  # fmt: skip
    budget = f"the {_mb(device.budget_bytes)} that an app may use on {device.name}"
    if chosen is None:
        least = min(allowed, key=lambda name: worst[name])
        role = max(predicted[least], key=lambda role: predicted[least][role])
        return f"in {least} mode the {role} needs {_mb(worst[least])}, more than {budget}"
    if chosen == "staged" and "resident" in allowed:
        return (
            f"in staged mode it needs {_mb(worst['staged'])} of {budget}; "
            f"resident mode would need {_mb(worst['resident'])}"
        )
    return f"in {chosen} mode it needs {_mb(worst[chosen])} of {budget}"


def _mb(count: int) -> str:
    return f"{count / MB:,.0f} MB"
