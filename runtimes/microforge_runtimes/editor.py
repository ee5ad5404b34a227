"""Drawing from a source with a bundle: the numpy twin of ``MicroForgePipeline.edit``, ``inpaint``, ``super_resolve``.

The encoded source stands to the right of z (SPEC section 6). As in ``generate`` one stage is in memory at a
time: text encoder, image encoder, denoiser, decoder.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from microforge.bundle.manifest import Component, Role, Sampler, Task
from microforge.errors import BundleError, SpecError
from microforge.noise import check_seed
from microforge.tokenizer import TokenIds
from microforge_runtimes import latent_blending
from microforge_runtimes import sampler as rules
from microforge_runtimes.engines.session import Session
from microforge_runtimes.generator import (
    Branch,
    Conditioning,
    Generator,
    Result,
    Velocity,
    check_task,
    integrate,
)
from microforge_runtimes.images import resampling
from microforge_runtimes.sampler import AfterStep, Floats, StepCallback

#: The tasks with a source, in the order of ``spec.TASKS``.
SOURCE_TASKS: tuple[Task, ...] = ("edit", "inpaint", "super-resolve")


@dataclass(frozen=True)
class Guides:
    """What a drawing with a source is guided by: encoded words, no words, and the source's latent (1, C, h, w).

    ``words`` *is* ``empty`` for a drawing without words; ``empty`` is None where guidance is off.
    """

    words: Conditioning
    empty: Conditioning | None
    source: Floats


class Editor(Generator):
    """Draws from a source with one bundle, one engine and one size; also generates where the bundle can.

    Images are float32 (1, 3, H, W) in [0, 1] at the editor's size; ``picture`` and ``canvas`` bring any file to
    it and back.
    """

    def _roles(self) -> tuple[Role, ...]:
        tasks = self.bundle.manifest.tasks
        if not set(tasks) & set(SOURCE_TASKS):
            wanted = ", ".join(SOURCE_TASKS)
            raise BundleError(f"{self.bundle.path} can none of {wanted}; its tasks: {', '.join(tasks)}")
        roles: tuple[Role, ...] = ("vae_encoder", "denoiser_edit", "vae_decoder")
        return ("denoiser", *roles) if "generate" in tasks else roles

    def edit(
        self, source: Floats, instruction: str | None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None, mask: Floats | None = None,
    ) -> Result:  # fmt: skip
        """Change ``source`` as ``instruction`` says; None is the empty instruction. Raises as ``check_redraw``.

        With a ``mask`` (1, 1, H, W) only where it is 1; other pixels stay, bit for bit.
        """
        return self.redraw("edit", source, instruction, mask, seed, steps, callback)

    def inpaint(
        self, source: Floats, mask: Floats, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Fill the hole of ``source`` where ``mask`` (1, 1, H, W) is 1; other pixels stay, bit for bit.

        Raises as ``check_redraw``.
        """
        return self.redraw("inpaint", source, prompt, mask, seed, steps, callback)

    def super_resolve(
        self, source: Floats, factor: int = 2, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Draw ``source`` (1, 3, H / factor, W / factor) at this editor's size; ``drawer`` enlarges whole pictures by it.

        Raises as ``check_redraw``; SpecError for a factor that is not one of ``resampling.MAGNIFICATIONS``.
        """
        larger = resampling.upsampled(source, factor)
        return self.redraw("super-resolve", larger, prompt, None, seed, steps, callback)

    def check_redraw(
        self, task: Task, prompt: str | None, seed: int = 0, steps: int | None = None
    ) -> TokenIds:
        """Everything that ``redraw`` could refuse but its images, without loading an engine: the words' token ids.

        Raises:
            PromptError: for an empty prompt; None is no prompt.
            SpecError: for a seed outside 64 bits. BundleError: for a task or a step count that the bundle does
                not allow, or a damaged file.
        """
        check_task(self.bundle, task)
        if task not in SOURCE_TASKS:
            raise SpecError(f"{task} has no source; allowed: {', '.join(SOURCE_TASKS)}")
        check_seed(seed)
        rules.timesteps(self.bundle.manifest.sampler, steps)
        tokens = self.empty_tokens(task) if prompt is None else self.tokens(prompt, task)
        for key in self._keys.values():
            self.bundle.file(self.target, key)
        return tokens

    def redraw(
        self, task: Task, source: Floats, prompt: str | None = None, mask: Floats | None = None, seed: int = 0,
        steps: int | None = None, callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Draw ``source`` anew, as ``task`` (edit, inpaint or super-resolve) does.

        Args:
            source: what the right half shows: the image, for super-resolve its upsample.
            mask: of inpaint, and of an edit of a part.

        Raises:
            as ``check_redraw``; SpecError for a source or mask of another size, or an empty mask.
        """
        tokens = self.check_redraw(task, prompt, seed, steps)
        shown, hole = self._checked(task, source, mask)
        clock = [time.perf_counter()]
        words, empty = self._words(task, tokens, prompt)
        clock.append(time.perf_counter())
        guides = Guides(words, empty, self.encode_image(shown))
        known = guides.source if shown is source else self.encode_image(source)
        noise, latent = self.noise(seed), self.bundle.manifest.latent
        cells = None if hole is None else latent_blending.latent_mask(hole, latent.downsample)
        unchanged = self.bundle.manifest.sampler.unchanged if task == "edit" else None
        after = latent_blending.after_step(known, noise, cells, unchanged)
        clock.append(time.perf_counter())
        z = self.sample_redraw(guides, noise, steps, callback, after)
        clock.append(time.perf_counter())
        image = self.decode(z)
        if hole is not None:
            image = latent_blending.composited(image, source, hole)
        clock.append(time.perf_counter())
        names = ("text_encoder", "vae_encoder", "denoiser_edit", "vae_decoder")
        seconds = {name: clock[i + 1] - clock[i] for i, name in enumerate(names)}
        return Result(
            rules.to_pixels(image), z, prompt or "", seed, len(rules.timesteps(self.bundle.manifest.sampler, steps)) - 1,
            self.size.height, self.size.width, self.bundle.id, tokens.truncated, seconds, task,
        )  # fmt: skip

    def encode_image(self, image: Floats) -> Floats:
        """Normalised latent (1, C, h, w) of an image (1, 3, H, W) in [0, 1]."""
        with self._stage("vae_encoder") as (session, _):
            latent = session.run({"image": np.ascontiguousarray(image, np.float32)})["latent"]
        return rules.normalize(latent, self.bundle.manifest.latent)

    def sample_redraw(
        self, guides: Guides, noise: Floats, steps: int | None = None, callback: StepCallback | None = None,
        after: AfterStep | None = None,
    ) -> Floats:  # fmt: skip
        """Integrate from noise to the final normalised latent (1, C, h, w), guided three ways.

        Args:
            after: what is done to the latent after each step (``source_rules.after_step``).

        Raises:
            BundleError: for a step count that the bundle does not allow.
        """
        sampler = self.bundle.manifest.sampler
        with self._stage("denoiser_edit") as (session, component):
            velocity = _steered(session, component, guides, sampler)
            return integrate(velocity, noise, rules.timesteps(sampler, steps), callback, after)

    def _words(
        self, task: Task, tokens: TokenIds, prompt: str | None
    ) -> tuple[Conditioning, Conditioning | None]:
        """The encoded prompt, and the encoded empty one where guidance needs it."""
        sampler = self.bundle.manifest.sampler
        if rules.text_scale(sampler) == rules.image_scale(sampler) == 1.0:
            return self.encode(tokens)[0], None
        if prompt is None:
            empty = self.encode(tokens)[0]
            return empty, empty
        words, empty = self.encode(tokens, self.empty_tokens(task))
        return words, empty

    def _checked(self, task: Task, source: Floats, mask: Floats | None) -> tuple[Floats, Floats | None]:
        """What the right half shows, and the mask as zeros and ones."""
        height, width = self.size.height, self.size.width
        if source.shape != (1, 3, height, width) or source.dtype != np.float32:
            raise SpecError(
                f"the source is {source.dtype}{list(source.shape)}; it must be float32[1, 3, {height}, {width}]"
            )
        if mask is None:
            if task == "inpaint":
                raise SpecError("inpaint needs a mask")
            return source, None
        if task == "super-resolve":
            raise SpecError("super-resolve takes no mask")
        hole = latent_blending.check_mask(mask, height, width)
        return latent_blending.with_hole(source, hole) if task == "inpaint" else source, hole


def _steered(session: Session, component: Component, guides: Guides, sampler: Sampler) -> Velocity:
    """The velocity under three-way guidance, with a plan state per branch.

    Without words the full branch is the one with the source alone, and is evaluated once for both.
    """
    text, image = rules.text_scale(sampler), rules.image_scale(sampler)
    full = Branch(session, component, guides.words, guides.source)
    if guides.empty is None or text == image == 1.0:
        return lambda z, t: (full.velocity(z, t), full.plan)
    wordless = guides.words is guides.empty
    source_only = full if wordless else Branch(session, component, guides.empty, guides.source)
    nothing = Branch(session, component, guides.empty, np.zeros_like(guides.source))

    def velocity(z: Floats, t: float) -> tuple[Floats, Floats | None]:
        found = full.velocity(z, t)
        with_source = found if wordless else source_only.velocity(z, t)
        guided = rules.guided_edit_velocity(found, with_source, nothing.velocity(z, t), text, image)
        return guided, full.plan

    return velocity
