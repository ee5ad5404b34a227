"""Where the time of one image goes, on one engine: operators by kind, starting operators, and everything outside.

Whole images are timed without a profiler, and each evaluation of a network inside them. The engine's profiler then gives
the kernels. It also slows them down: of ONNX Runtime's, the median time of a reshape, which moves nothing, is subtracted
from every node. What remains of an evaluation beside its kernels is the time between operators.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from pydantic import Field

from microforge.bundle.entry import Entry
from microforge.bundle.files import Bundle
from microforge.bundle.measurements import Operator
from microforge.errors import SpecError
from microforge_benchmarks.measure.graph_cost import read_cost
from microforge_benchmarks.measure.operators import profile
from microforge_benchmarks.measure.processor_rates import ProcessorRates, processor_rates
from microforge_benchmarks.measure.roofline import image_cost
from microforge_benchmarks.measure.worker import PROMPT, WARM_UPS
from microforge_runtimes.arrays import Array
from microforge_runtimes.engines.registry import open_session
from microforge_runtimes.engines.session import Session
from microforge_runtimes.generator import Generator

#: Engines whose package has a profiler that Python can use.
PROFILED_TARGETS = ("onnx", "executorch")
_MOVES_NOTHING = "Reshape"


class ComponentProfile(Entry):
    """One network: ``seconds`` of one evaluation inside whole images, and the profiler's operators in one evaluation."""

    component: str
    evaluations: int
    seconds: float
    operators: tuple[Operator, ...]


class KindTime(Entry):
    """One kind of operator: ``nodes`` that an image runs and their ``seconds``, the profiler's own time subtracted."""

    operator: str
    nodes: int
    seconds: float


class ImageProfile(Entry):
    """One image on one engine.

    ``image_s``: median of whole images. ``between_s``: evaluations less kernels. ``outside_s``: image less evaluations,
    which is tokenizer, noise, sampler and pixels. ``profiler_s``: what was subtracted from every node. ``bound_s``: least
    possible time by ``rates``, None without ONNX files; see ``bound``.
    """

    target: str
    precision: str
    size: str
    threads: int
    images: int
    image_s: float
    between_s: float
    outside_s: float
    profiler_s: float
    kinds: tuple[KindTime, ...]
    components: tuple[ComponentProfile, ...]
    rates: ProcessorRates | None = None
    bound_s: Mapping[str, float] | None = Field(default=None)


class _TimedSession:
    """A session that notes the seconds of its evaluations."""

    def __init__(self, session: Session, seconds: list[float]) -> None:
        self._session, self._seconds = session, seconds

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        start = time.perf_counter()
        outputs = self._session.run(inputs)
        self._seconds.append(time.perf_counter() - start)
        return outputs

    def close(self) -> None:
        self._session.close()


def profile_bundle(
    bundle: Bundle, targets: tuple[str, ...], size: tuple[int, int] | None, threads: list[int], images: int,
    report: Callable[[str], None],
) -> list[ImageProfile]:  # fmt: skip
    """Profile every engine with every count of threads, with rates and bound where the bundle has ONNX files.

    Raises:
        SpecError: for an engine without a profiler, before anything is measured.
        BundleError: as ``profile_image``.
        MissingExtraError: as ``profile_image``.
    """
    for target in targets:
        if target not in PROFILED_TARGETS:
            raise SpecError(
                f"--target has {target!r}; engines with a profiler: {', '.join(PROFILED_TARGETS)}"
            )
        bundle.target(target)
    profiles = []
    for count in threads:
        rates = None
        for target in targets:
            report(f"{target}, threads: {count}")
            measured = profile_image(bundle, target, size, count, images)
            if "onnx" in bundle.manifest.targets:
                if rates is None:
                    report(f"rates of the processor, threads: {count}")
                    keys = {item.component: 1 for item in measured.components}
                    rates = processor_rates(weight_bytes(bundle, keys), count)
                limits = bound(bundle, size, measured.components, rates)
                measured = measured.model_copy(update={"rates": rates, "bound_s": limits})
            profiles.append(measured)
    return profiles


def profile_image(
    bundle: Bundle, target: str, size: tuple[int, int] | None, threads: int, images: int
) -> ImageProfile:
    """Profile text to image with ``bundle``.

    Raises:
        BundleError: for a bundle without files of ``target``.
        MissingExtraError: without its engine.
    """
    whole, evaluations = _time_images(bundle, target, size, threads, images)
    by_component: dict[str, list[Operator]] = defaultdict(list)
    for item in profile(str(bundle.path), target, size, threads, max(images, 5)):
        by_component[item.component].append(item)
    components = tuple(
        ComponentProfile(
            component=key, evaluations=len(seconds) // images, seconds=statistics.median(seconds),
            operators=tuple(by_component[key]),
        )
        for key, seconds in evaluations.items()
    )  # fmt: skip
    pixels = bundle.size(size).size
    precision = bundle.target(target).precision
    return summarize(components, whole, target, precision, str(pixels), threads, images)


def _time_images(
    bundle: Bundle, target: str, size: tuple[int, int] | None, threads: int, images: int
) -> tuple[float, dict[str, list[float]]]:
    """Median seconds of an image, and the seconds of every evaluation by component key."""
    evaluations: dict[str, list[float]] = defaultdict(list)

    def opened(bundle: Bundle, target: str, key: str, threads: int | None) -> Session:
        return _TimedSession(open_session(bundle, target, key, threads), evaluations[key])

    whole = []
    with Generator(bundle, target, size, threads, keep_loaded=True, opener=opened) as generator:
        for seed in range(WARM_UPS):
            generator.generate(PROMPT, seed)
        for seconds in evaluations.values():
            seconds.clear()
        for seed in range(images):
            start = time.perf_counter()
            generator.generate(PROMPT, seed)
            whole.append(time.perf_counter() - start)
    return statistics.median(whole), dict(evaluations)


def summarize(
    components: tuple[ComponentProfile, ...], image_s: float, target: str, precision: str, size: str,
    threads: int, images: int,
) -> ImageProfile:  # fmt: skip
    """Add up the operators of all evaluations of an image by kind, slowest first."""
    profiler_s = _profiler_seconds(components) if target == "onnx" else 0.0
    nodes: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for item in components:
        for operator in item.operators:
            nodes[operator.operator] += item.evaluations * operator.nodes
            net = max(operator.seconds - operator.nodes * profiler_s, 0.0)
            seconds[operator.operator] += item.evaluations * net
    kinds = sorted(
        (KindTime(operator=kind, nodes=nodes[kind], seconds=seconds[kind]) for kind in nodes),
        key=lambda item: -item.seconds,
    )
    evaluated = sum(item.evaluations * item.seconds for item in components)
    return ImageProfile(
        target=target, precision=precision, size=size, threads=threads, images=images, image_s=image_s,
        between_s=evaluated - sum(item.seconds for item in kinds), outside_s=image_s - evaluated,
        profiler_s=profiler_s, kinds=tuple(kinds), components=components,
    )  # fmt: skip


def _profiler_seconds(components: tuple[ComponentProfile, ...]) -> float:
    """Mean profiled time of a node that moves nothing; 0 if there is none."""
    reshapes = [op for item in components for op in item.operators if op.operator == _MOVES_NOTHING]
    count = sum(op.nodes for op in reshapes)
    return sum(op.seconds for op in reshapes) / count if count else 0.0


def weight_bytes(bundle: Bundle, evaluations: Mapping[str, int]) -> int:
    """Bytes of the weights that ``evaluations`` (component key -> count) read, each evaluation all of its network."""
    return sum(read_cost(bundle.file("onnx", key)).weights * count for key, count in evaluations.items())


def bound(
    bundle: Bundle, size: tuple[int, int] | None, components: tuple[ComponentProfile, ...], rates: ProcessorRates
) -> dict[str, float]:  # fmt: skip
    """Least seconds of an image, by what limits it: "products" at the best rate, and "weights" that are read.

    Products of a bundle in INT8 are taken at the rate of int8, although attention stays in floating point.
    """
    kind = "int8" if bundle.target("onnx").precision == "int8" else "fp32"
    streamed = weight_bytes(bundle, {item.component: item.evaluations for item in components})
    return {
        "products": image_cost(bundle, size).products / rates.operations_s[kind],
        "weights": streamed / rates.bytes_s["warm"],
    }
