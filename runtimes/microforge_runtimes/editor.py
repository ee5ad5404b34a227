"""The tasks that start from an image, each as a call of its own."""

from __future__ import annotations

from microforge_runtimes.generator import Generator, Request, Result
from microforge_runtimes.sampler import Floats, StepCallback


class Editor(Generator):
    """A ``Generator`` with a method per task that takes an image.

    Images are float32 (1, 3, H, W) in [0, 1] at the editor's size; ``microforge_runtimes.images`` brings any file to it
    and back. The methods are short forms of ``run`` and raise as ``check``.
    """

    def edit(
        self, image: Floats, prompt: str | None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None, mask: Floats | None = None,
    ) -> Result:  # fmt: skip
        """Change ``image`` as ``prompt`` says; with a ``mask`` (1, 1, H, W) only where it is 1."""
        return self.run(Request(prompt, "edit", image, mask, seed, steps), callback)

    def inpaint(
        self, image: Floats, mask: Floats, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Fill ``image`` where ``mask`` (1, 1, H, W) is 1; other pixels stay, bit for bit."""
        return self.run(Request(prompt, "inpaint", image, mask, seed, steps), callback)

    def super_resolve(
        self, image: Floats, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Make ``image`` (1, 3, H / factor, W / factor) as large as this editor's size."""
        return self.run(Request(prompt, "super-resolve", image, None, seed, steps), callback)

    def vary(
        self, image: Floats, prompt: str | None = None, strength: float | None = None, seed: int = 0,
        steps: int | None = None, callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """Make an image that is similar to ``image``; a lower ``strength`` stays nearer to it."""
        return self.run(Request(prompt, "vary", image, None, seed, steps, strength), callback)
