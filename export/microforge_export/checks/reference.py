"""The reference that artefacts are compared with: the torch modules on inputs that really occur.

One whole drawing is recorded step by step, and the first steps of further ones: real prompts through the
real text encoder, latents on the way from noise to image, a first step without a plan and later steps with
the plan of the step before, on all guidance branches; for tasks with a source the same from a fixed source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from microforge.bundle.manifest import Role, Size, Task
from microforge.noise import standard_normal
from microforge.tokenizer import PromptTokenizer, TokenIds
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.test_images import SUPER_RESOLVE_FACTOR, Given, given
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.recipes.build_recipe import SampleRequest
from microforge_runtimes import latent_blending
from microforge_runtimes import sampler as rules
from microforge_runtimes.images import resampling
from microforge_runtimes.sampler import AfterStep

#: Steps of a drawing after the first that is only recorded in part.
_PARTIAL_STEPS = 2


@dataclass(frozen=True)
class Reference:
    """Cases by component key, and the tensors of the first drawing of a task per size (see ``golden``)."""

    cases: Mapping[str, tuple[Case, ...]]
    trajectories: Mapping[tuple[Size, SampleRequest], Mapping[str, Array]]


@dataclass
class _Recorder:
    """Evaluates torch components and keeps the evaluations that are asked for."""

    cases: dict[str, list[Case]] = field(default_factory=lambda: defaultdict(list))

    def run(
        self, component: SourceComponent, inputs: Mapping[str, Array], keep: bool = True
    ) -> dict[str, Array]:
        inputs = {spec.name: inputs[spec.name] for spec in component.inputs}
        outputs = component.evaluate(inputs)
        if keep:
            self.cases[component.key].append(Case(inputs, outputs))
        return outputs


def record(
    model: SourceModel, components: Iterable[SourceComponent], requests: Sequence[SampleRequest]
) -> Reference:
    """Run the model's own modules over ``requests`` at every size; the first request of a task in full."""
    recorder, trajectories = _Recorder(), {}
    tokenizer, length = PromptTokenizer.load(model.tokenizer.path), model.tokenizer.max_length
    by_size: dict[Size | None, dict[Role, SourceComponent]] = defaultdict(dict)
    for component in components:
        by_size[component.size][component.role] = component
    encoder = by_size.pop(None)["text_encoder"]
    empty: dict[Task, dict[str, Array]] = {}
    for request in requests:
        first = request.task not in empty
        if first:
            empty[request.task] = _encode(recorder, encoder, tokenizer.encode_empty(request.task, length))
        words = empty[request.task]
        if request.prompt:
            words = _encode(recorder, encoder, tokenizer.encode(request.prompt, request.task, length))
        for size, roles in by_size.items():
            assert size is not None
            steps = None if first else _PARTIAL_STEPS
            start = given(request.task, size)
            artist = _Artist(recorder, model, roles, words, empty[request.task])
            tensors = (
                artist.draw(request.seed, steps) if start is None else artist.redraw(request, steps, start)
            )
            if first:
                trajectories[size, request] = tensors
    return Reference({key: tuple(cases) for key, cases in recorder.cases.items()}, trajectories)


def drawing(model: SourceModel, request: SampleRequest, size: Size) -> Array:
    """Image (1, 3, H, W) in [0, 1] of the library's own pipeline, from the fixed source where the task has one."""
    start = given(request.task, size)
    if start is None:
        return model.provider.draw(request.prompt, request.seed, size)
    return model.provider.redraw(request.task, request.prompt or None, request.seed, start.source, start.mask)


def _encode(recorder: _Recorder, encoder: SourceComponent, tokens: TokenIds) -> dict[str, Array]:
    inputs: dict[str, Array] = {"ids": tokens.ids[None], "mask": tokens.mask[None]}
    return {**inputs, **recorder.run(encoder, inputs)}


#: Evaluate the guided velocity and the prompt's plan at (z, t, step, number of steps).
_Velocity = Callable[[Array, float, int, int], tuple[Array, Array | None]]


@dataclass(frozen=True)
class _Artist:
    """Draws with the torch modules of one size, guided from the encoded ``empty`` prompt to the encoded ``words``."""

    recorder: _Recorder
    model: SourceModel
    roles: Mapping[Role, SourceComponent]
    words: Mapping[str, Array]
    empty: Mapping[str, Array]

    def draw(self, seed: int, steps: int | None) -> dict[str, Array]:
        """A drawing without a source, or its first ``steps`` steps; the tensors of a golden trajectory."""
        scale, denoiser = rules.text_scale(self.model.sampler), self.roles["denoiser"]
        branch = _Branch(self.recorder, denoiser, self.words)
        steering = _Branch(self.recorder, denoiser, self.empty) if scale != 1.0 else None

        def velocity(z: Array, t: float, index: int, count: int) -> tuple[Array, Array | None]:
            found = branch.velocity(z, t, index in (0, 1, count // 2, count - 1))
            if steering is not None:
                found = rules.guided_velocity(found, steering.velocity(z, t, index in (0, count - 1)), scale)
            return found, branch.values.get("plan")

        tensors = self._integrate(velocity, standard_normal(seed, denoiser.inputs[0].shape), steps)
        if "vae_encoder" in self.roles:
            self.recorder.run(self.roles["vae_encoder"], {"image": tensors["image"]})
        return tensors | (self._empty_tokens() if steering is not None else {})

    def redraw(self, request: SampleRequest, steps: int | None, start: Given) -> dict[str, Array]:
        """The same from a source: as the runtime's ``Editor`` does it."""
        sampler, denoiser, hole = self.model.sampler, self.roles["denoiser_edit"], start.mask
        text, image = rules.text_scale(sampler), rules.image_scale(sampler)
        noise = standard_normal(request.seed, denoiser.inputs[0].shape)
        larger = denoiser.size is not None and start.source.shape[2] != denoiser.size.height
        whole = resampling.upsampled(start.source, SUPER_RESOLVE_FACTOR) if larger else start.source
        shown = whole if hole is None else latent_blending.with_hole(whole, hole)
        source = self._encode(shown)
        full = _Branch(self.recorder, denoiser, {**self.words, "source": source})
        source_only = _Branch(self.recorder, denoiser, {**self.empty, "source": source})
        nothing = _Branch(self.recorder, denoiser, {**self.empty, "source": np.zeros_like(source)})
        steered = not text == image == 1.0

        def velocity(z: Array, t: float, index: int, count: int) -> tuple[Array, Array | None]:
            ends = index in (0, count - 1)
            found = full.velocity(z, t, ends or index == count // 2)
            if steered:
                others = source_only.velocity(z, t, ends), nothing.velocity(z, t, ends)
                found = rules.guided_edit_velocity(found, *others, text, image)
            return found, full.values.get("plan")

        known, cells = source, None
        if hole is not None:
            cells, known = (
                latent_blending.latent_mask(hole, self.model.latent.downsample),
                self._encode(whole),
            )
        unchanged = sampler.unchanged if request.task == "edit" else None
        after = latent_blending.after_step(known, noise, cells, unchanged)
        tensors = self._integrate(velocity, noise, steps, after) | {
            "source": start.source,
            "source_latent": source,
        }
        if hole is not None:
            composite = latent_blending.composited(tensors["image"], whole, hole)
            tensors |= {"hole": hole, "image": composite}
        return tensors | (self._empty_tokens() if steered else {})

    def _integrate(
        self, velocity: _Velocity, noise: Array, steps: int | None,
        after: AfterStep | None = None,
    ) -> dict[str, Array]:  # fmt: skip
        grid = self.model.sampler.timesteps
        count = len(grid) - 1 if steps is None else min(steps, len(grid) - 1)
        z, path = noise, defaultdict(list)
        for index in range(count):
            found, plan = velocity(z, grid[index], index, count)
            z = rules.euler_step(z, found, grid[index], grid[index + 1])
            z = z if after is None else after(z, grid[index + 1])
            for name, value in (("z", z), ("velocity", found), ("plan", plan)):
                if value is not None:
                    path[name].append(value[0])
        latent = rules.denormalize(z, self.model.latent)
        image = self.recorder.run(self.roles["vae_decoder"], {"latent": latent})["image"]
        tensors = {
            "ids": self.words["ids"], "mask": self.words["mask"], "noise": noise, "latent": latent, "image": image,
        }  # fmt: skip
        return tensors | {name: np.stack(values) for name, values in path.items()}

    def _encode(self, image: Array) -> Array:
        raw = self.recorder.run(self.roles["vae_encoder"], {"image": image})["latent"]
        return rules.normalize(raw, self.model.latent)

    def _empty_tokens(self) -> dict[str, Array]:
        return {"empty_ids": self.empty["ids"], "empty_mask": self.empty["mask"]}


class _Branch:
    """One guidance branch with a plan of its own; the twin of the runtime's, on torch modules."""

    def __init__(self, recorder: _Recorder, denoiser: SourceComponent, prompt: Mapping[str, Array]) -> None:
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
