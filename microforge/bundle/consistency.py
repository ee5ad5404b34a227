"""Whether the parts of a manifest agree: every name leads somewhere, every bound input gets its shape.

After these checks a runtime looks up names and shapes without a case of its own. All errors are ValueErrors of one
line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeVar

from microforge.bundle.inputs import Bindings, Concat, Encoded, Expression, Part
from microforge.bundle.layout import Component, Layout, SizeEntry, TensorSpec
from microforge.bundle.sampling import BranchEntry, SamplerTable, Task

ValueT = TypeVar("ValueT")
Shape = tuple[int, ...]


def check_manifest(manifest: Layout) -> None:
    """Refuse a manifest whose parts contradict one another.

    Raises:
        ValueError: for the first contradiction.
    """
    _check_sizes(manifest)
    _check_components(manifest)
    _check_bytes(manifest)
    _check_samplers(manifest)
    for name, encoder in manifest.encoders.items():
        for place in _places(manifest, encoder.role, f"encoders.{name}"):
            place.check(encoder.inputs, allowed=_ENCODER_KINDS)
            if encoder.latent is not None:
                place.needs_output(encoder.latent, place.latent)
    for name, task in manifest.tasks.items():
        _check_task(manifest, f"tasks.{name}", name, task)
    if manifest.decode.role is not None:
        for place in _places(manifest, manifest.decode.role, "decode"):
            place.needs_input(manifest.decode.input, place.latent)
            output = place.component.output(manifest.decode.output)
            has_alpha = output is not None and output.shape == place.image_with_alpha
            place.needs_output(manifest.decode.output, place.image_with_alpha if has_alpha else place.image)
    elif manifest.latent.channels != 3 or manifest.latent.downsample != 1:
        raise ValueError("decode has no role, so the latent must be an image: 3 channels, downsample 1")
    if manifest.preview is not None and len(manifest.preview.matrix[0]) != manifest.latent.channels:
        raise ValueError(f"preview.matrix needs rows of {manifest.latent.channels} numbers, one per channel")
    _check_targets(manifest)


def used_encoders(manifest: Layout, task: Task) -> tuple[str, ...]:
    """Names of the encoders that a task runs, in the manifest's order."""
    names = {task.source.encoder} if task.source is not None else set()
    network = next((item for item in manifest.components.values() if item.role == task.network), None)
    inputs = {spec.name for spec in network.inputs} if network is not None else set()
    for branch in task.branches:
        for bindings in ({**manifest.conditions, **branch.conditions}, branch.unprompted):
            names |= {
                part.encoder
                for name, expression in bindings.items()
                if name in inputs
                for part in parts_of(expression)
                if isinstance(part, Encoded)
            }
    return tuple(name for name in manifest.encoders if name in names)


def parts_of(expression: Expression) -> Iterator[Part]:
    """The expression itself, or the parts of a concatenation."""
    if isinstance(expression, Concat):
        yield from (item.part for item in expression.parts)
    else:
        yield expression


_ENCODER_KINDS = frozenset({"tokens", "token_mask", "image", "zeros", "values", "parameter"})


@dataclass(frozen=True)
class _Place:
    """A component at one image size, and where messages say the problem is."""

    manifest: Layout
    size: SizeEntry
    component: Component
    where: str

    @property
    def latent(self) -> Shape:
        return (1, *self.size.latent_shape)

    @property
    def image(self) -> Shape:
        return (1, 3, self.size.height, self.size.width)

    @property
    def image_with_alpha(self) -> Shape:
        return (1, 4, self.size.height, self.size.width)

    def check(
        self, bindings: Bindings, allowed: frozenset[str] | None = None, taken: Iterable[str] = ()
    ) -> None:
        """Every input is bound, has a default or is ``taken``, and gets its shape."""
        taken = set(taken)
        for spec in self.component.inputs:
            expression = bindings.get(spec.name)
            if expression is None:
                if spec.name not in taken and spec.default is None:
                    raise ValueError(f"{self.where}: nothing says where input {spec.name!r} comes from")
            elif spec.name in taken:
                raise ValueError(f"{self.where}: input {spec.name!r} is both bound and carried")
            else:
                self._fits(spec, expression, allowed)

    def _fits(self, spec: TensorSpec, expression: Expression, allowed: frozenset[str] | None) -> None:
        if not isinstance(expression, Concat):
            return self._part_fits(spec.name, spec.shape, expression, allowed)
        axis, lengths = expression.axis, [item.length for item in expression.parts]
        if axis >= len(spec.shape) or sum(lengths) != spec.shape[axis]:
            raise ValueError(
                f"{self.where}: {spec.name!r} of shape {list(spec.shape)} cannot have parts of {lengths} along axis {axis}"
            )
        for item in expression.parts:
            self._part_fits(
                spec.name, (*spec.shape[:axis], item.length, *spec.shape[axis + 1 :]), item.part, allowed
            )

    def _part_fits(self, name: str, shape: Shape, part: Part, allowed: frozenset[str] | None) -> None:
        if allowed is not None and part.kind not in allowed:
            raise ValueError(f"{self.where}: {name!r} cannot come from {part.kind!r} here")
        source = self._shape(name, shape, part)
        if source != shape:
            raise ValueError(
                f"{self.where}: {name!r} needs shape {list(shape)}, {part.kind} has {list(source)}"
            )

    def _shape(self, name: str, shape: Shape, part: Part) -> Shape:
        """The shape that ``part`` has; ``shape`` itself where it takes any."""
        manifest = self.manifest
        if part.kind == "latent":
            return self.latent
        if part.kind == "image":
            return self.image
        if part.kind == "latent_mask":
            return (1, 1, *self.size.latent_shape[1:])
        if part.kind in ("tokens", "token_mask"):
            return (1, _known(manifest.tokenizers, part.tokenizer, self.where, "tokenizers").length)
        if part.kind == "encoded":
            encoder = _known(manifest.encoders, part.encoder, self.where, "encoders")
            key = manifest.find(encoder.role, self.size.size)
            spec = None if key is None else manifest.components[key].output(part.output)
            if spec is None:
                raise ValueError(f"{self.where}: encoder {part.encoder!r} has no output {part.output!r}")
            return spec.shape
        if part.kind == "parameter":
            _known(manifest.parameters, part.parameter, self.where, "parameters")
        if part.kind == "values" and len(part.values) not in (1, prod(shape)):
            raise ValueError(
                f"{self.where}: {name!r} of shape {list(shape)} cannot hold {len(part.values)} values"
            )
        return shape

    def needs_input(self, name: str, shape: Shape) -> None:
        self._needs("input", self.component.input(name), name, shape)

    def needs_output(self, name: str, shape: Shape) -> None:
        self._needs("output", self.component.output(name), name, shape)

    def _needs(self, kind: str, spec: TensorSpec | None, name: str, shape: Shape) -> None:
        if spec is None:
            raise ValueError(f"{self.where}: {self.component.role} has no {kind} {name!r}")
        if spec.shape != shape:
            raise ValueError(f"{self.where}: {kind} {name!r} has shape {list(spec.shape)}, not {list(shape)}")


def _places(manifest: Layout, role: str, where: str) -> Iterator[_Place]:
    """The component of ``role`` at every size."""
    for size in manifest.sizes:
        key = manifest.find(role, size.size)
        if key is None:
            raise ValueError(f"{where}: there is no component of role {role!r} for size {size.size}")
        yield _Place(manifest, size, manifest.components[key], where)


def _check_task(manifest: Layout, where: str, name: str, task: Task) -> None:
    for place in _places(manifest, task.network, where):
        place.needs_output(task.output, place.latent)
        taken = []
        for state in manifest.state:
            spec = place.component.input(state.input)
            if spec is None:
                continue
            place.needs_output(state.output, spec.shape)
            taken.append(state.input)
            if state.flag is not None:
                flag = place.component.input(state.flag)
                if flag is None or prod(flag.shape) != 1:
                    raise ValueError(
                        f"{where}: the state's flag {state.flag!r} must be an input of one element"
                    )
                taken.append(state.flag)
        for branch in task.branches:
            _check_branch(manifest, where, task, branch)
            shared = {key: value for key, value in manifest.conditions.items() if place.component.input(key)}
            place.check({**shared, **branch.conditions}, taken=taken)
            place.check({**shared, **branch.conditions, **branch.unprompted}, taken=taken)
    if task.source is not None:
        _check_source(manifest, where, task)
    if task.prompt != "none":
        for tokenizer, entry in manifest.tokenizers.items():
            if name not in entry.prefix:
                raise ValueError(f"tokenizers.{tokenizer}.prefix lacks the task {name!r}")
            if len(entry.prefix[name]) + len(entry.suffix) > entry.length:
                raise ValueError(
                    f"tokenizers.{tokenizer}: the frame of {name!r} is longer than {entry.length} ids"
                )


def _check_branch(manifest: Layout, where: str, task: Task, branch: BranchEntry) -> None:
    for scale in branch.weight.scales:
        _known(manifest.guidance, scale, where, "guidance")
    if branch.unprompted and branch.prompt != "negative":
        raise ValueError(f"{where}: only a branch with the negative prompt can have unprompted conditions")
    bindings = [*branch.conditions.values(), *branch.unprompted.values()]
    kinds = {part.kind for expression in bindings for part in parts_of(expression)}
    if task.source is None and kinds & {"image", "latent_mask"}:
        raise ValueError(f"{where}: a task without a source has no image and no mask")


def _check_source(manifest: Layout, where: str, task: Task) -> None:
    source = task.source
    assert source is not None
    encoder = _known(manifest.encoders, source.encoder, where, "encoders")
    if encoder.latent is None:
        raise ValueError(f"{where}: encoder {source.encoder!r} gives no latent")
    if source.mask == "none" and source.masked_value is not None:
        raise ValueError(f"{where}: masked_value without a mask")
    if source.mask != "none" and any(row.level is None for item in manifest.samplers for row in item.rows):
        raise ValueError(f"{where}: a mask needs the noise level of every sampler row")
    if source.start is not None:
        for size in manifest.sizes:
            if not any(table.starts() for table in tables_for(manifest, size)):
                raise ValueError(f"{where}: no sampler table for {size.size} can start from an image")


def tables_for(manifest: Layout, size: SizeEntry) -> tuple[SamplerTable, ...]:
    """The sampler tables that an image size may use, the default one first."""
    return tuple(item for item in manifest.samplers if item.size is None or str(item.size) == str(size.size))


def _check_samplers(manifest: Layout) -> None:
    keys = [(item.steps, str(item.size), item.strength) for item in manifest.samplers]
    if len(set(keys)) != len(keys):
        raise ValueError("samplers holds two tables for the same steps, size and strength")
    for size in manifest.sizes:
        if not any(table.strength is None for table in tables_for(manifest, size)):
            raise ValueError(f"samplers has no table for size {size.size}")
    if sum(len(item.rows) for item in manifest.samplers) > 10_000:
        raise ValueError("samplers has more than 10,000 rows")
    for name, scale in manifest.guidance.items():
        if not scale.low <= scale.default <= scale.high:
            raise ValueError(
                f"guidance.{name}: default {scale.default:g} is outside {scale.low:g} to {scale.high:g}"
            )
    for name, item in manifest.parameters.items():
        if not item.low <= item.default <= item.high:
            raise ValueError(
                f"parameters.{name}: default {item.default:g} is outside {item.low:g} to {item.high:g}"
            )


def _check_sizes(manifest: Layout) -> None:
    downsample = manifest.latent.downsample
    for entry in manifest.sizes:
        cells = manifest.latent.shape(entry)
        if entry.latent_shape != cells or entry.height % downsample or entry.width % downsample:
            raise ValueError(
                f"size {entry.size} with latent_shape {list(entry.latent_shape)} does not fit the latent"
            )
        if 3 * entry.height * entry.width > 1 << 26:
            raise ValueError(f"size {entry.size} is too large")
    if len({str(entry.size) for entry in manifest.sizes}) != len(manifest.sizes):
        raise ValueError("sizes names one size twice")


def _check_components(manifest: Layout) -> None:
    sizes = {str(entry.size) for entry in manifest.sizes}
    seen: set[tuple[str, str]] = set()
    for key, component in manifest.components.items():
        pair = (component.role, str(component.size))
        if pair in seen:
            raise ValueError(f"components holds two {component.role} of size {component.size}")
        seen.add(pair)
        if component.size is not None and str(component.size) not in sizes:
            raise ValueError(f"component {key!r} has size {component.size}, which is not in sizes")
        for spec in component.inputs:
            if isinstance(spec.default, tuple) and len(spec.default) not in (1, prod(spec.shape)):
                raise ValueError(
                    f"component {key!r}: the default of {spec.name!r} does not fill {list(spec.shape)}"
                )


def _check_bytes(manifest: Layout) -> None:
    total = sum(entry.bytes for entry in manifest.files())
    if manifest.bytes != total:
        raise ValueError(f"bytes is {manifest.bytes}, the files have {total} together")
    words = {item.file.path: item.file.bytes for item in manifest.tokenizers.values()}
    for name, target in manifest.targets.items():
        paths = {**words, **{entry.path: entry.bytes for entry in target.entries()}}
        if target.bytes != sum(paths.values()):
            raise ValueError(
                f"targets.{name}.bytes is {target.bytes}, its files have {sum(paths.values())} together"
            )


def _check_targets(manifest: Layout) -> None:
    sizes = {str(entry.size) for entry in manifest.sizes}
    for name, target in manifest.targets.items():
        for what in ("files", "parts", "parity", "precisions", "memory", "coverage", "shared_sha256"):
            for key in getattr(target, what):
                _known(manifest.components, key, f"targets.{name}.{what}", "components")
        for task in target.tasks:
            _known(manifest.tasks, task, f"targets.{name}.tasks", "tasks")
        for what in ("quality", "peaks"):
            for key in getattr(target, what):
                if key not in sizes:
                    raise ValueError(f"targets.{name}.{what} has size {key}, which is not in sizes")
    for key in manifest.golden.components:
        _known(manifest.components, key, "golden.components", "components")
    for trajectory in manifest.golden.trajectories:
        _known(manifest.tasks, trajectory.task, "golden.trajectories", "tasks")
        if str(trajectory.size) not in sizes:
            raise ValueError(f"golden.trajectories has size {trajectory.size}, which is not in sizes")


def _known(values: Mapping[str, ValueT], key: str, where: str, what: str) -> ValueT:
    if key not in values:
        raise ValueError(f"{where} names {key!r}, which is not in {what}")
    return values[key]
