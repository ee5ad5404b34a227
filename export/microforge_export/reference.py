"""The reference that artefacts are compared with: the torch modules on inputs that really occur.

One whole drawing is recorded step by step, and the first steps of further ones: real prompts through the
real text encoder, latents on the way from noise to image, a first step without a plan and later steps with
the plan of the step before, on both guidance branches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from microforge.bundle import Role, Size
from microforge.noise import standard_normal
from microforge.tokenizer import PromptTokenizer, TokenIds
from microforge_export.golden import Array, Case
from microforge_export.program import Component, SourceModel
from microforge_export.recipe import Draw
from microforge_runtimes import sampler as rules

#: Steps of a drawing after the first that is only recorded in part.
_PARTIAL_STEPS = 2


@dataclass(frozen=True)
class Reference:
    """Cases by component key, and the tensors of one whole drawing per size (see ``golden``)."""

    cases: Mapping[str, tuple[Case, ...]]
    trajectories: Mapping[Size, Mapping[str, Array]]


@dataclass
class _Recorder:
    """Evaluates torch components and keeps the evaluations that are asked for."""

    cases: dict[str, list[Case]] = field(default_factory=lambda: defaultdict(list))

    def run(self, component: Component, inputs: Mapping[str, Array], keep: bool = True) -> dict[str, Array]:
        inputs = {spec.name: inputs[spec.name] for spec in component.inputs}
        outputs = component.evaluate(inputs)
        if keep:
            self.cases[component.key].append(Case(inputs, outputs))
        return outputs


def record(model: SourceModel, components: Iterable[Component], draws: Sequence[Draw]) -> Reference:
    """Run the model's own modules over ``draws`` at every size; the first draw in full."""
    recorder, trajectories = _Recorder(), {}
    tokenizer = PromptTokenizer.load(model.tokenizer.path)
    by_size: dict[Size | None, dict[Role, Component]] = defaultdict(dict)
    for component in components:
        by_size[component.size][component.role] = component
    encoder = by_size.pop(None)["text_encoder"]
    empty = _encode(recorder, encoder, tokenizer.encode_empty("generate", model.tokenizer.max_length))
    for index, draw in enumerate(draws):
        prompt = _encode(
            recorder, encoder, tokenizer.encode(draw.prompt, "generate", model.tokenizer.max_length)
        )
        for size, roles in by_size.items():
            assert size is not None
            steps = None if index == 0 else _PARTIAL_STEPS
            tensors = _draw(recorder, model, roles, prompt, empty, draw.seed, steps)
            if index == 0:
                trajectories[size] = tensors
    return Reference({key: tuple(cases) for key, cases in recorder.cases.items()}, trajectories)


def _encode(recorder: _Recorder, encoder: Component, tokens: TokenIds) -> dict[str, Array]:
    inputs: dict[str, Array] = {"ids": tokens.ids[None], "mask": tokens.mask[None]}
    return {**inputs, **recorder.run(encoder, inputs)}


def _draw(
    recorder: _Recorder, model: SourceModel, roles: Mapping[Role, Component], prompt: Mapping[str, Array],
    empty: Mapping[str, Array], seed: int, steps: int | None,
) -> dict[str, Array]:  # fmt: skip
    """One drawing, or its first ``steps`` steps; the tensors of a golden trajectory."""
    grid, scale = model.sampler.timesteps, rules.text_scale(model.sampler)
    count = len(grid) - 1 if steps is None else min(steps, len(grid) - 1)
    kept = {0, 1, count // 2, count - 1}
    denoiser = roles["denoiser"]
    branch = _Branch(recorder, denoiser, prompt)
    steering = _Branch(recorder, denoiser, empty) if scale != 1.0 else None
    noise = standard_normal(seed, denoiser.inputs[0].shape)
    z, path = noise, defaultdict(list)
    for index in range(count):
        velocity = branch.velocity(z, grid[index], index in kept)
        if steering is not None:
            unguided = steering.velocity(z, grid[index], index in (0, count - 1))
            velocity = rules.guided_velocity(velocity, unguided, scale)
        z = rules.euler_step(z, velocity, grid[index], grid[index + 1])
        for name, value in (("z", z), ("velocity", velocity), ("plan", branch.values.get("plan"))):
            if value is not None:
                path[name].append(value[0])
    latent = rules.denormalize(z, model.latent)
    image = recorder.run(roles["vae_decoder"], {"latent": latent})["image"]
    if "vae_encoder" in roles:
        recorder.run(roles["vae_encoder"], {"image": image})
    tensors = {"ids": prompt["ids"], "mask": prompt["mask"], "noise": noise, "latent": latent, "image": image}
    if steering is not None:
        tensors |= {"empty_ids": empty["ids"], "empty_mask": empty["mask"]}
    return tensors | {name: np.stack(values) for name, values in path.items()}


class _Branch:
    """One guidance branch with a plan of its own; the twin of the runtime's, on torch modules."""

    def __init__(self, recorder: _Recorder, denoiser: Component, prompt: Mapping[str, Array]) -> None:
        self._recorder, self._denoiser = recorder, denoiser
        self.values: dict[str, Array] = dict(prompt)
        plan = denoiser.entry().input("plan")
        if plan is not None:
            self.values |= {"plan": np.zeros(plan.shape, np.float32), "has_plan": np.zeros(1, np.float32)}

    def velocity(self, z: Array, t: float, keep: bool) -> Array:
        inputs = {**self.values, "z": z, "t": np.full(1, t, np.float32)}
        outputs = self._recorder.run(self._denoiser, inputs, keep)
        if "next_plan" in outputs:
            self.values |= {"plan": outputs["next_plan"], "has_plan": np.ones(1, np.float32)}
        return outputs["velocity"]
