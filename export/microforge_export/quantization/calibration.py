"""What every component gets to see while images are sampled: inputs to calibrate with, and references to judge by.

``record_sample`` makes one image with the shipped runtime and any implementation of the components. With the torch
modules it gives the reference and every input that occurs: with and without the prompt, first and later states. With
an artefact's sessions it gives the image to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from microforge.bundle.manifest import Size
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.parity import Pair
from microforge_export.checks.recording import Recorder, record_other_components, unconditional_cases
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_runtimes import Generator, Request, Step

#: Evaluate the component of a role: inputs by name to outputs by name.
Run = Callable[[str, Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class RecordedSample:
    """One sample. ``image`` is (1, 3, H, W), ``latent`` (1, C, h, w) normalized; ``states`` what the user's branch carries after the last step.

    ``network`` and ``output`` name the role that is evaluated at every step and its output. ``pairs`` hold its evaluations
    with and without the prompt; ``cases`` all evaluations by role.
    """

    image: Array
    latent: Array
    network: str
    output: str
    states: Mapping[str, Array] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()
    cases: Mapping[str, Sequence[Case]] = field(default_factory=dict)


def torch_runner(components: Sequence[SourceComponent]) -> Run:
    """The torch modules of one size as a ``Run``."""
    by_role = {item.role: item for item in components}
    return lambda role, inputs: by_role[role].evaluate(inputs)


def sample_requests(model: SourceModel, count: int, seed: int) -> tuple[SampleRequest, ...]:
    """``count`` prompts of the model's kind, each sampled from noise of its own."""
    return tuple(
        SampleRequest(text, seed + index) for index, text in enumerate(model.provider.prompts(count, seed))
    )


def of_size(components: Sequence[SourceComponent], size: Size) -> tuple[SourceComponent, ...]:
    """The components that run at ``size``, those that serve every size included."""
    return tuple(item for item in components if item.size in (None, size))


def sizes_of(components: Sequence[SourceComponent]) -> tuple[Size, ...]:
    """The sizes of ``components``, each once, in order."""
    return tuple(dict.fromkeys(item.size for item in components if item.size is not None))


def tasks_of(model: SourceModel, components: Sequence[SourceComponent]) -> tuple[str, ...]:
    """The tasks of a model that ``components`` are enough for, in the model's order."""
    roles = {item.role for item in components}
    driving = model.provider.driving(model.tasks)
    return tuple(name for name, task in driving.tasks.items() if task.network in roles)


def record_sample(
    model: SourceModel, components: Sequence[SourceComponent], run: Run, request: SampleRequest,
    keep_cases: bool = True,
) -> RecordedSample:  # fmt: skip
    """Sample one image of one size with ``run``, and keep every evaluation that sampling makes.

    Args:
        components: of one size; only what they declare is used.
        keep_cases: False for the image and the states alone; what a component outside this task does is left out.

    The empty prompt's pass is also run where guidance is distilled into the weights: what the prompt changes is
    measured by it. Its evaluations are then in ``pairs`` alone.
    """
    roles = {item.key: item.role for item in components}
    bundle = model.bundle(components, sizes_of(components), tasks_of(model, components))
    recorder = Recorder(lambda key, inputs: run(roles[key], inputs), on=keep_cases)
    with Generator(bundle, "recorded", opener=recorder, keep_loaded=True) as generator:
        checked, steps = (
            generator.check(Request(request.prompt, request.task, seed=request.seed)),
            list[Step](),
        )
        latent = generator.sample(checked, generator.encode(checked), steps.append)
        image = generator.decode(latent)
        entry, pairs = checked.entry, list[Pair]()
        if keep_cases:
            without = unconditional_cases(generator, recorder, checked, steps)
            cases = recorder.cases[generator.component_key(entry.network)]
            user = cases[:: len(cases) // len(steps)]
            pairs = [Pair(*pair) for pair in zip(user, without, strict=True)]
            record_other_components(generator, recorder, checked, user, image, latent)
    by_role = {roles[key]: values for key, values in recorder.cases.items()}
    return RecordedSample(image, latent, entry.network, entry.output, steps[-1].states, pairs, by_role)


def calibration_inputs(
    samples: Sequence[RecordedSample], role: str, most: int
) -> tuple[Mapping[str, Array], ...]:
    """At most ``most`` inputs of a component, spread evenly over all samples and steps.

    The first and the last evaluation of all are among them.
    """
    cases = [case for item in samples for case in item.cases.get(role, ())]
    if not cases:
        return ()
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))
    return tuple(cases[index].inputs for index in chosen)
