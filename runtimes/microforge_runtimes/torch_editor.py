"""Drawing with a checkpoint instead of a bundle: the same calls as ``Editor``, answered by the PyTorch pipeline.

It is how a model is tried before it is exported. torch loads, by name, only when one is opened; a bundle never
needs it (see the import contracts).
"""

from __future__ import annotations

import hashlib
import importlib
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from microforge.bundle.manifest import Task
from microforge.errors import BundleError, SpecError, missing_extra
from microforge.noise import check_seed, standard_normal
from microforge.tokenizer import TokenIds
from microforge_runtimes import sampler as rules
from microforge_runtimes.generator import Result
from microforge_runtimes.sampler import Floats, Step, StepCallback

WEIGHTS = "model.safetensors"


class CheckpointEditor:
    """Draws with a checkpoint at one size; usable as a context manager."""

    def __init__(
        self, folder: Path, size: tuple[int, int] | None = None, threads: int | None = None, pipeline: Any = None
    ) -> None:  # fmt: skip
        """Load the checkpoint.

        Args:
            size: (height, width) in pixels; the trained size when None.
            pipeline: of ``folder``, where it is loaded already.

        Raises:
            CheckpointError: when it is missing, damaged or not trained far enough; SpecError without a tokenizer.
            MissingExtraError: when torch is not installed.
        """
        try:
            self._torch: Any = importlib.import_module("torch")
            made: Any = importlib.import_module("microforge.pipeline").MicroForgePipeline
            self._pipeline: Any = made.from_pretrained(folder) if pipeline is None else pipeline
        except ModuleNotFoundError as error:
            raise missing_extra(error.name or "torch", "train") from None
        if self._pipeline.tokenizer is None:
            raise SpecError(f"{folder} has no tokenizer.json, so it cannot read prompts")
        if threads is not None:
            self._torch.set_num_threads(threads)
        self.folder, self.spec = folder, self._pipeline.spec
        self.size: tuple[int, int] = size or self.spec.native_size
        self.tasks: tuple[Task, ...] = self.spec.tasks
        self.id = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()[:12]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to free before the process ends."""

    @property
    def max_length(self) -> int:
        """L: tokens of an encoded prompt."""
        length: int = self.spec.text_encoder.max_length
        return length

    def check(self, prompt: str, seed: int = 0, steps: int | None = None) -> TokenIds:
        """Everything that ``generate`` could refuse: the prompt's token ids. Raises as ``check_redraw``."""
        return self.check_redraw("generate", prompt, seed, steps)

    def check_redraw(
        self, task: Task, prompt: str | None, seed: int = 0, steps: int | None = None
    ) -> TokenIds:
        """The words' token ids.

        Raises:
            PromptError: for an empty prompt. SpecError: for a seed or a step count that is not allowed.
            BundleError: for a task that the checkpoint was not trained in.
        """
        if task not in self.tasks:
            raise BundleError(f"{self.folder} cannot {task}; its tasks: {', '.join(self.tasks)}")
        check_seed(seed)
        self._pipeline.grid(steps)
        tokenizer = self._pipeline.tokenizer
        found: TokenIds = (
            tokenizer.encode_empty(task, self.max_length)
            if prompt is None
            else tokenizer.encode(prompt, task, self.max_length)
        )
        return found

    def generate(
        self, prompt: str, seed: int = 0, steps: int | None = None, callback: StepCallback | None = None
    ) -> Result:
        """As ``Generator.generate``."""
        return self._result("generate", prompt, seed, steps, callback, lambda told: self._pipeline.text2img(
            prompt, *self.size, num_steps=steps, seed=seed, callback=told
        ))  # fmt: skip

    def edit(
        self, source: Floats, instruction: str | None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None, mask: Floats | None = None,
    ) -> Result:  # fmt: skip
        """As ``Editor.edit``."""
        part = None if mask is None else self._tensor(mask)
        return self._result("edit", instruction, seed, steps, callback, lambda told: self._pipeline.edit(
            self._tensor(source), instruction, steps=steps, seed=seed, callback=told, mask=part
        ))  # fmt: skip

    def inpaint(
        self, source: Floats, mask: Floats, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """As ``Editor.inpaint``."""
        return self._result("inpaint", prompt, seed, steps, callback, lambda told: self._pipeline.inpaint(
            self._tensor(source), self._tensor(mask), prompt, steps=steps, seed=seed, callback=told
        ))  # fmt: skip

    def super_resolve(
        self, source: Floats, factor: int = 2, prompt: str | None = None, seed: int = 0, steps: int | None = None,
        callback: StepCallback | None = None,
    ) -> Result:  # fmt: skip
        """As ``Editor.super_resolve``."""
        return self._result("super-resolve", prompt, seed, steps, callback, lambda told: self._pipeline.super_resolve(
            self._tensor(source), factor, prompt, steps=steps, seed=seed, callback=told
        ))  # fmt: skip

    def _tensor(self, values: Floats) -> Any:
        device = next(self._pipeline.parameters()).device
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(device)

    def _result(
        self, task: Task, prompt: str | None, seed: int, steps: int | None, callback: StepCallback | None, draw: Any
    ) -> Result:  # fmt: skip
        """Run ``draw`` with a callback of the pipeline's form, and describe what it gave."""
        tokens, grid, factor = self.check_redraw(task, prompt, seed, steps), self._pipeline.grid(steps), self.spec.vae.downsample  # fmt: skip
        cells = (1, self.spec.latent_channels, self.size[0] // factor, self.size[1] // factor)
        path = [standard_normal(seed, cells)]

        def told(index: int, count: int, z: Any) -> None:
            t, t_next = grid[index - 1], grid[index]
            path.append(z.detach().cpu().numpy())
            velocity = (path[-1] - path.pop(0)) / np.float32(t_next - t)
            if callback is not None:
                callback(Step(index, count, t, t_next, path[-1], velocity, None))

        start = time.perf_counter()
        image = draw(told)
        seconds = {"pipeline": time.perf_counter() - start}
        pixels = rules.to_pixels(image.detach().cpu().numpy())
        return Result(
            pixels, path[-1], prompt or "", seed, len(grid) - 1, pixels.shape[0], pixels.shape[1], self.id,
            tokens.truncated, seconds, task,
        )  # fmt: skip
