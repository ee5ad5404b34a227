"""The reference that artefacts are compared with: the torch modules on inputs that really occur.

The shipped runtime samples with the torch modules, and every evaluation is recorded: real prompts through the real
encoders, latents on the way from noise to image, first steps without a state and later ones with it, on all guidance
branches; for tasks that take an image the same from a fixed one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from microforge.bundle.manifest import Driving, Size
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.recording import Recorder, set_of
from microforge_export.checks.test_images import test_request
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_runtimes import Generator, Request, Step
from microforge_runtimes.conditions import Context, bound_inputs
from microforge_runtimes.request import Checked, PromptText
from microforge_runtimes.sampler import denormalize

#: Steps whose evaluations are kept of a sample after a task's first one.
_PARTIAL_STEPS = 2


@dataclass(frozen=True)
class Reference:
    """Cases by component key, and the tensors of the first sample of a task per size (see ``golden``)."""

    cases: Mapping[str, tuple[Case, ...]]
    trajectories: Mapping[tuple[Size, SampleRequest], Mapping[str, Array]]


def record(
    model: SourceModel, components: Sequence[SourceComponent], sizes: Sequence[Size],
    requests: Sequence[SampleRequest], tasks: Sequence[str],
) -> Reference:  # fmt: skip
    """Run the model's own modules over ``requests`` at every size; the first request of a task in full."""
    bundle = model.bundle(components, sizes, tasks)
    by_key = {item.key: item for item in components}
    recorder = Recorder(lambda key, inputs: by_key[key].evaluate(inputs))
    kept: dict[str, list[Case]] = defaultdict(list)
    trajectories: dict[tuple[Size, SampleRequest], Mapping[str, Array]] = {}
    for size in sizes:
        seen: set[str] = set()
        with Generator(
            bundle, "torch", (size.height, size.width), opener=recorder, keep_loaded=True
        ) as generator:
            for sample in requests:
                name = sample.task or bundle.manifest.default_task
                request = test_request(bundle.manifest, name, sample.prompt, sample.seed, size)
                tensors = _sample(generator, recorder, request, name not in seen)
                if name not in seen:
                    trajectories[size, sample] = tensors
                    seen.add(name)
                shared = size != sizes[0]  # encoders that serve every size have seen these prompts already
                for key, cases in recorder.cases.items():
                    if not (shared and by_key[key].size is None):
                        kept[key] += cases
                recorder.cases.clear()
    return Reference({key: tuple(cases) for key, cases in kept.items()}, trajectories)


def reference_image(model: SourceModel, driving: Driving, sample: SampleRequest, size: Size) -> Array:
    """Image (1, 3, H, W) in [0, 1] of the library's own pipeline, from the fixed image where the task takes one."""
    name = sample.task or next(iter(driving.tasks))
    return model.provider.reference(test_request(driving, name, sample.prompt, sample.seed, size), size)


def _sample(generator: Generator, recorder: Recorder, request: Request, first: bool) -> dict[str, Array]:
    """One sample with the evaluations that are worth keeping left in ``recorder``; the tensors of its trajectory."""
    checked, steps = generator.check(request), list[Step]()
    encodings = generator.encode(checked)
    latent = generator.sample(checked, encodings, steps.append)
    key = generator.component_key(checked.entry.network)
    recorder.cases[key] = _chosen(recorder.cases[key], len(set_of(checked.branches)), first)
    image = generator.decode(latent)
    tensors: dict[str, Array] = {
        "noise": generator.noise(request.seed),
        "latent": denormalize(latent, generator.manifest.latent),
        "image": image,
        **{
            name: np.concatenate([getattr(step, field) for step in steps])
            for name, field in _PER_STEP.items()
        },
        **{
            f"state.{name}": np.concatenate([step.states[name] for step in steps]) for name in steps[0].states
        },
        **_tokens(checked),
    }
    if request.image is not None:
        tensors["source"] = request.image
    if encodings.known is not None:
        tensors["known"] = encodings.known
    if checked.mask is not None and checked.image is not None:
        tensors |= {"mask": checked.mask, "image": np.where(checked.mask > 0, image, checked.image)}
    if first:
        _evaluate_beside(generator, recorder, checked, image)
    return tensors


#: Tensor of a trajectory -> the field of a step.
_PER_STEP = {"u": "latent", "m": "output"}


def _chosen(cases: list[Case], branches: int, first: bool) -> list[Case]:
    """Of a network's evaluations: the user's branch at four steps, the others at two; fewer of a later sample."""
    count = len(cases) // branches
    last = count - 1 if first else _PARTIAL_STEPS - 1
    user = {0, 1, count // 2, last} if first else set(range(_PARTIAL_STEPS))
    return [
        case
        for index, case in enumerate(cases)
        if index // branches in (user if index % branches == 0 else {0, last})
    ]


def _tokens(checked: Checked) -> dict[str, Array]:
    """Token ids and masks of the user's branch, and of the next one that has another prompt."""
    prompts = list(dict.fromkeys(branch.prompt for branch in checked.branches))
    return {
        f"{which}.{name}.{field}": getattr(tokens, field)[None]
        for which, prompt in zip(("tokens", "other_tokens"), prompts, strict=False)
        for name, tokens in checked.tokens[prompt].items()
        for field in ("ids", "mask")
    }


def _evaluate_beside(generator: Generator, recorder: Recorder, checked: Checked, image: Array) -> None:
    """Evaluate the prompt encoders on the empty prompt, and unused image encoders on the sample itself."""
    manifest = generator.manifest
    tokens = {name: generator.tokenizer(name).encode(None, checked.task) for name in manifest.tokenizers}
    empty = PromptText(None)
    for name, entry in manifest.encoders.items():
        key = generator.component_key(entry.role)
        specs = manifest.components[key]
        if name in checked.prompt_encoders and empty not in checked.prompt_encoders[name]:
            recorder.evaluate(
                key, bound_inputs(specs, entry.inputs, Context(tokens=tokens, parameters=checked.parameters))
            )
        elif (
            name not in checked.image_encoders
            and name not in checked.prompt_encoders
            and entry.latent is not None
        ):
            recorder.evaluate(key, bound_inputs(specs, entry.inputs, Context(image=image)))
