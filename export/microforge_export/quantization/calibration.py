"""What every component gets to see while images are drawn: inputs to calibrate with, and references to judge by.

``roll`` generates one image with any implementation of the components. With the torch modules it gives the
reference and, at the sampler's exact times, every input that occurs: both guidance passes, with and without a
plan state. With an artefact's sessions it gives the image to compare.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from microforge.bundle.manifest import Role, Size
from microforge.noise import standard_normal
from microforge.tokenizer import PromptTokenizer, TokenIds
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.parity import Pair
from microforge_export.components.component import SourceComponent, SourceModel
from microforge_export.recipes.build_recipe import SampleRequest
from microforge_runtimes import sampler as rules

#: Evaluate the component of a role: inputs by name to outputs by name.
Run = Callable[[Role, Mapping[str, Array]], Mapping[str, Array]]


@dataclass
class Roll:
    """One drawing. ``image`` is (1, 3, H, W), ``plan`` (1, K, D) the prompt's plan after the last step."""

    image: Array
    plan: Array | None
    pairs: list[Pair]
    cases: dict[Role, list[Case]] = field(default_factory=lambda: defaultdict(list))


def torch_runner(components: Sequence[SourceComponent]) -> Run:
    """The torch modules of one size as a ``Run``."""
    by_role = {item.role: item for item in components}
    return lambda role, inputs: by_role[role].evaluate(inputs)


def captions(count: int, seed: int) -> tuple[SampleRequest, ...]:
    """``count`` captions of the built-in data's grammar, each drawn from noise of its own."""
    from microforge.data.world.captions import evaluation_prompts

    return tuple(
        SampleRequest(item.text, seed + index) for index, item in enumerate(evaluation_prompts(count, seed))
    )


def of_size(components: Sequence[SourceComponent], size: Size) -> tuple[SourceComponent, ...]:
    """The components that generate at ``size``, those that serve every size included."""
    return tuple(item for item in components if item.size in (None, size))


def sizes_of(components: Sequence[SourceComponent]) -> tuple[Size, ...]:
    """The sizes of ``components``, each once, in order."""
    return tuple(dict.fromkeys(item.size for item in components if item.size is not None))


def roll(
    model: SourceModel,
    components: Sequence[SourceComponent],
    run: Run,
    request: SampleRequest,
    keep_cases: bool = True,
) -> Roll:
    """Generate one image of one size with ``run``, and keep every evaluation that sampling makes.

    Args:
        components: of one size; only what they declare is used.
        keep_cases: False for the image and the plan alone; what a component outside drawing does is left out.

    The empty prompt's pass is also run where guidance is folded into the weights: what the prompt changes is
    measured by it. Its evaluations are then in ``pairs`` alone.
    """
    artist = _Artist({item.role: item for item in components}, run, keep_cases, defaultdict(list))
    tokenizer, limit = PromptTokenizer.load(model.tokenizer.path), model.tokenizer.max_length
    scale, grid = rules.text_scale(model.sampler), model.sampler.timesteps
    prompt = artist.encode(tokenizer.encode(request.prompt, "generate", limit), True)
    empty = artist.encode(tokenizer.encode_empty("generate", limit), scale != 1.0)
    z, pairs = standard_normal(request.seed, artist.roles["denoiser"].inputs[0].shape), []
    for t, t_next in itertools.pairwise(grid):
        now: dict[str, Array] = {"z": z, "t": np.full(1, t, np.float32)}
        passes = [artist.step({**prompt, **now}, True)]
        if keep_cases or scale != 1.0:
            passes.append(artist.step({**empty, **now}, scale != 1.0))
        if keep_cases:
            pairs.append(Pair(*passes))
        for values, case in zip((prompt, empty), passes, strict=False):
            if "next_plan" in case.outputs:
                values |= {"plan": case.outputs["next_plan"], "has_plan": np.ones(1, np.float32)}
        velocity = passes[0].outputs["velocity"]
        if scale != 1.0:
            velocity = rules.guided_velocity(velocity, passes[1].outputs["velocity"], scale)
        z = rules.euler_step(z, velocity, t, t_next)
    image = artist.evaluate("vae_decoder", {"latent": rules.denormalize(z, model.latent)}).outputs["image"]
    if keep_cases:
        artist.beside(image, z, pairs)
    return Roll(image, prompt.get("plan"), pairs, artist.cases)


@dataclass(frozen=True)
class _Artist:
    """Evaluates components by role and keeps the evaluations that are asked for."""

    roles: Mapping[Role, SourceComponent]
    run: Run
    keep_cases: bool
    cases: dict[Role, list[Case]]

    def evaluate(self, role: Role, values: Mapping[str, Array], keep: bool = True) -> Case:
        inputs = {spec.name: values[spec.name] for spec in self.roles[role].inputs}
        case = Case(inputs, self.run(role, inputs))
        if keep and self.keep_cases:
            self.cases[role].append(case)
        return case

    def encode(self, tokens: TokenIds, keep: bool) -> dict[str, Array]:
        values: dict[str, Array] = {"ids": tokens.ids[None], "mask": tokens.mask[None]}
        outputs = self.evaluate("text_encoder", values, keep).outputs
        return {**values, **outputs, **_no_plan(self.roles["denoiser"])}

    def step(self, values: Mapping[str, Array], keep: bool) -> Case:
        return self.evaluate("denoiser", values, keep)

    def beside(self, image: Array, z: Array, pairs: Sequence[Pair]) -> None:
        """Evaluate what drawing does not need: the encoder on the image, the edit layout with it as its source."""
        if "vae_encoder" in self.roles:
            self.evaluate("vae_encoder", {"image": image})
        if "denoiser_edit" in self.roles:  # the drawing itself is the source at every step of its making
            for pair in pairs:
                self.evaluate("denoiser_edit", {**pair.conditional.inputs, "source": z})


def _no_plan(denoiser: SourceComponent) -> dict[str, Array]:
    plan = denoiser.entry().input("plan")
    return (
        {}
        if plan is None
        else {"plan": np.zeros(plan.shape, np.float32), "has_plan": np.zeros(1, np.float32)}
    )


def calibration_inputs(rolls: Sequence[Roll], role: Role, most: int) -> tuple[Mapping[str, Array], ...]:
    """At most ``most`` inputs of a component, spread evenly over all drawings and steps.

    The first and the last evaluation of all are among them.
    """
    cases = [case for item in rolls for case in item.cases.get(role, ())]
    if not cases:
        return ()
    chosen = np.unique(np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int))
    return tuple(cases[index].inputs for index in chosen)
