"""Evaluations of components while the runtime samples: a recorder between the runtime and what runs a component."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from microforge.bundle.files import Bundle
from microforge.bundle.manifest import reads_prompt
from microforge.tokenizer import TokenIds
from microforge_export.checks.golden import Array, Case
from microforge_runtimes import Generator
from microforge_runtimes.conditions import Context, bound_input
from microforge_runtimes.request import ActiveBranch, Checked, PromptText
from microforge_runtimes.sampler import Floats, Step

#: Evaluate a component by its key: inputs by name to outputs by name.
Run = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]


@dataclass
class Recorder:
    """Opens sessions that evaluate with ``run``, and keeps the evaluations by component key while ``on`` is true."""

    run: Run
    on: bool = True
    cases: dict[str, list[Case]] = field(default_factory=lambda: defaultdict(list))

    def __call__(self, bundle: Bundle, target: str, key: str, threads: int | None = None) -> RecordingSession:
        """A session on component ``key``; an ``Opener`` of the runtime."""
        return RecordingSession(self, key)

    def evaluate(self, key: str, inputs: Mapping[str, Array]) -> Case:
        """One evaluation, kept while ``on``."""
        case = Case(dict(inputs), self.run(key, inputs))
        if self.on:
            self.cases[key].append(case)
        return case


@dataclass(frozen=True)
class RecordingSession:
    """A runtime session that records."""

    recorder: Recorder
    key: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate once."""
        return dict(self.recorder.evaluate(self.key, inputs).outputs)

    def close(self) -> None:
        """Nothing to free."""


def unconditional_cases(
    generator: Generator, recorder: Recorder, checked: Checked, steps: list[Step]
) -> list[Case]:
    """The network's evaluations on the empty prompt at the latents of ``steps``, with a state of their own.

    They are recorded only where sampling makes them anyway, for guidance.
    """
    first = checked.branches[0]
    empty = ActiveBranch(PromptText(None), first.bindings, 0.0)
    key = generator.component_key(checked.entry.network)
    if empty in checked.branches:
        count, index = len(set_of(checked.branches)), set_of(checked.branches).index(empty)
        return recorder.cases[key][-count * len(steps) :][index::count]
    was, recorder.on = recorder.on, False
    kept, recorder.cases = recorder.cases, defaultdict(list)
    try:
        alone = replace(
            checked, branches=(empty,), image_encoders={},
            tokens={empty.prompt: _empty_tokens(generator, checked)},
            prompt_encoders={name: (empty.prompt,) for name in checked.prompt_encoders},
        )  # fmt: skip
        encodings = generator.encode(alone)
        recorder.on = True
        with generator.stage(checked.entry.network) as session:
            branch = generator.branch(session, alone, encodings, empty)
            for step in steps:
                branch.evaluate(step.input, step.time)
        return recorder.cases[key]
    finally:
        recorder.on, recorder.cases = was, kept


def set_of(branches: tuple[ActiveBranch, ...]) -> tuple[ActiveBranch, ...]:
    """Branches that are evaluated apart, in order."""
    return tuple(item for index, item in enumerate(branches) if branches.index(item) == index)


def _empty_tokens(generator: Generator, checked: Checked) -> dict[str, TokenIds]:
    return {
        name: generator.tokenizer(name).encode(None, checked.task) for name in generator.manifest.tokenizers
    }


def record_other_components(
    generator: Generator,
    recorder: Recorder,
    checked: Checked,
    cases: list[Case],
    image: Array,
    latent: Floats,
) -> None:
    """Evaluate what the sampled task does not need: image encoders on ``image``, and networks of other tasks at the
    inputs of ``cases`` with ``latent`` (1, C, h, w), the sample's own, as their image's latent."""
    manifest = generator.manifest
    images = {name: entry for name, entry in manifest.encoders.items() if not reads_prompt(entry)}
    for entry in images.values():
        key = generator.component_key(entry.role)
        specs = manifest.components[key].inputs
        context = Context(image=image)
        recorder.evaluate(
            key, {spec.name: bound_input(spec, entry.inputs.get(spec.name), context) for spec in specs}
        )
    encoded = {(name, entry.latent): latent for name, entry in images.items() if entry.latent is not None}
    others = dict.fromkeys(
        task.network for task in manifest.tasks.values() if task.network != checked.entry.network
    )
    for role in others:
        key = generator.component_key(role)
        for case in cases:
            context = Context(encoded=encoded, image=image)
            recorder.evaluate(key, {
                spec.name: case.inputs[spec.name]
                if spec.name in case.inputs
                else bound_input(spec, manifest.conditions.get(spec.name), context)
                for spec in manifest.components[key].inputs
            })  # fmt: skip
