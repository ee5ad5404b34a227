"""``mf-generate``: checks everything that can be checked, then generates image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from microforge.errors import BundleError, SpecError
from microforge.io.console import print_json, say_warning
from microforge_runtimes.commands import options
from microforge_runtimes.commands.pack_options import check_pack_options

if TYPE_CHECKING:
    from microforge.bundle.sampling import Task as TaskEntry
    from microforge_runtimes.commands.batch import Batch
    from microforge_runtimes.commands.output import ImageWriter, Pixels
    from microforge_runtimes.generator import Result
    from microforge_runtimes.images.source_request import SourceRequest
    from microforge_runtimes.marks.settings import Settings
    from microforge_runtimes.open_model import Choice
    from microforge_runtimes.request import Request
    from microforge_runtimes.sampler import StepCallback


def generate(
    model: options.Model,
    prompt: options.Prompts = None,
    out: options.Out = None,
    seed: options.Seed = None,
    count: options.Count = 1,
    size: options.Size = None,
    steps: options.Steps = None,
    negative: options.Negative = None,
    guidance: options.Guidance = None,
    task: options.Task = None,
    source: options.Source = None,
    mask: options.Mask = None,
    factor: options.Factor = None,
    strength: options.Strength = None,
    composite: options.Composite = False,
    target: options.Target = None,
    threads: options.Threads = None,
    key: options.SignedBy = None,
    like: options.Like = None,
    transparent: options.Transparent = False,
    preview: options.Preview = False,
    pack: options.Pack = None,
    platform: options.Platform = None,
    pack_name: options.PackName = None,
    pack_author: options.PackAuthor = None,
    emoji: options.Emoji = None,
    private: options.Private = False,
    c2pa_certificate: options.Certificate = None,
    c2pa_key: options.Key = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Generate images from a prompt, or edit, fill and enlarge an image.

    Images carry their settings, from which --like generates them again, and a mark that says that they were generated.
    """
    alone = {
        "--out": out, "--task": task, "--source": source, "--mask": mask, "--factor": factor, "--strength": strength,
        "--composite": composite, "--like": like, "--preview": preview, "--transparent": transparent,
        "--c2pa-certificate": c2pa_certificate, "--c2pa-key": c2pa_key,
    }  # fmt: skip
    companions = {"--for": platform, "--pack-name": pack_name, "--pack-author": pack_author, "--emoji": emoji}
    check_pack_options(pack, alone, companions)
    if pack is not None:
        made = _pack(
            model, pack, (platform, pack_name, pack_author, emoji or []), prompt or [], seed or 0, count,
            (size, target, threads, key, steps), private, force,
        )  # fmt: skip
        print_json(made) if json else print(made["pack"])
        return
    if out is None:
        raise SpecError("Missing option --out FILE; or --pack FOLDER for a sticker pack")
    from microforge.bundle.signature import read_key
    from microforge_runtimes.commands.batch import check_paths, clean_prompt, plan_batch
    from microforge_runtimes.commands.guidance import scales_of
    from microforge_runtimes.commands.output import check_transparent, make_writer
    from microforge_runtimes.commands.replay import check_files, check_pixels, read_settings
    from microforge_runtimes.images.source_request import check_options, read_request
    from microforge_runtimes.open_model import Choice, task_entries

    earlier = None if like is None else read_settings(like)
    settings = _Sampling(
        task, size, steps, target, threads, factor, composite, strength, clean_prompt(negative) if negative else negative,
        scales_of(guidance or ()),
    ).filled(earlier)  # fmt: skip
    prompts: list[str | None] = [clean_prompt(text) for text in prompt or ()]
    prompts = prompts or [None if earlier is None else earlier.prompt]
    _hint_at_quotes(prompts)
    if earlier is not None:
        check_files(earlier, source, mask)
    public_key = read_key(key)
    tasks = task_entries(model, public_key)
    chosen = _task(settings, source, mask, tasks)
    check_options(chosen, tasks, source, mask, settings.factor, settings.composite, prompts[0])
    check_transparent(transparent, out, source)
    first_seed = seed if seed is not None else earlier.seed if earlier is not None else 0
    batch = plan_batch(prompts, first_seed, count, out)
    check_paths(batch, force, preview)
    request, entry = None, tasks[chosen].source
    if source is not None and entry is not None:
        request = read_request(chosen, entry, source, mask, settings.factor, settings.composite)
        for remark in request.source.remarks:
            say_warning(remark)
        if earlier is not None:
            check_pixels(earlier, request.source, request.mask)
    writer = make_writer(out, request, source, private, force, c2pa_certificate, c2pa_key)
    choice = Choice(settings.size, settings.target, settings.threads, public_key)
    settings = replace(settings, task=chosen, transparent=transparent)
    values = _run(model, settings, choice, batch, request, writer, earlier, preview)
    if json:
        print_json(
            values[0]
            if batch.sheet is None
            else {"images": values, "contact_sheet": str(batch.sheet.absolute())}
        )
        return
    for item in batch.items:
        print(item.path.absolute())
    if batch.sheet is not None:
        print(batch.sheet.absolute())


@dataclass(frozen=True)
class _Sampling:
    """How every image of the call is sampled; None is the model's own choice."""

    task: str | None
    size: str | None
    steps: int | None
    target: str | None
    threads: int | None
    factor: int | None
    composite: bool
    strength: float | None
    negative: str | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)
    transparent: bool = False

    def filled(self, earlier: Settings | None) -> _Sampling:
        """What is None here as it was in ``earlier``."""
        if earlier is None:
            return self
        target = None if earlier.target == "torch" else earlier.target
        same_task = self.task in (None, earlier.task)
        return _Sampling(
            self.task or earlier.task,
            self.size or earlier.size,
            self.steps or earlier.steps,
            self.target or target,
            self.threads or earlier.threads,
            self.factor or (earlier.factor if same_task else None),
            self.composite or (earlier.composite and same_task),
            self.strength if self.strength is not None or not same_task else earlier.strength,
            self.negative if self.negative is not None else earlier.negative,
            self.guidance or earlier.guidance or {},
        )


def _hint_at_quotes(prompts: list[str | None]) -> None:
    if len(prompts) > 2 and not any(" " in (text or "") for text in prompts):
        say_warning(f"{len(prompts)} prompts of one word each; put a prompt of several words in quotes")


def _task(settings: _Sampling, source: Path | None, mask: Path | None, tasks: Mapping[str, TaskEntry]) -> str:
    """The task that the options name or imply; ``tasks`` are the model's.

    Raises:
        SpecError: for a task that the model lacks, and for a strength where it says nothing.
        BundleError: when no task takes these images.
    """
    from microforge.bundle.manifest import task_for

    allowed = ", ".join(tasks)
    if settings.task is not None and settings.task not in tasks:
        raise SpecError(f"--task is {settings.task!r}; allowed: {allowed}")
    variations = [name for name, task in tasks.items() if task.source is not None and task.source.start]
    wanted = settings.task
    if wanted is None and settings.strength is not None and variations:
        wanted = variations[0]
    wanted = wanted or task_for(tasks, image=source is not None or mask is not None, mask=mask is not None)
    if wanted is None:
        what = "--mask" if mask is not None else "--source" if source is not None else "a prompt alone"
        hint = f" ({' and '.join(variations)}: with --strength)" if variations else ""
        raise BundleError(f"this model has no task for {what}; its tasks: {allowed}{hint}")
    if settings.strength is not None and wanted not in variations:
        places = f"belongs to --task {' and '.join(variations)}" if variations else "is for other models"
        raise SpecError(f"--strength {places}, not to {wanted}")
    return wanted


def _run(
    model: Path, settings: _Sampling, choice: Choice, batch: Batch, request: SourceRequest | None, writer: ImageWriter,
    earlier: Settings | None, preview: bool,
) -> list[dict[str, object]]:  # fmt: skip
    """Generate and write all images, then their contact sheet; the values of each image for ``--json``."""
    from microforge_runtimes.commands.guidance import named_scales
    from microforge_runtimes.commands.output import settings_of, summary
    from microforge_runtimes.commands.progress import GenerationProgress
    from microforge_runtimes.commands.replay import check_model
    from microforge_runtimes.images.contact_sheet import contact_sheet, thumbnail
    from microforge_runtimes.open_model import check, is_checkpoint, open_model, run

    engine = "torch" if is_checkpoint(model) else settings.target or "onnx"
    values: list[dict[str, object]] = []
    sheet = []
    with open_model(model, choice, request) as editor, GenerationProgress(len(batch.items)) as progress:
        settings = replace(settings, guidance=named_scales(settings.guidance, editor.manifest))
        editor.keep_loaded = editor.keep_loaded or len(batch.items) > 1
        if earlier is not None:
            check_model(earlier, model, editor.bundle.id)
        for prompt in dict.fromkeys(item.prompt for item in batch.items):
            if check(editor, request, _request(settings, prompt, batch.items[0].seed)).truncated:
                say_warning(
                    f"the prompt is longer than {editor.max_length} tokens; the rest of it is ignored"
                )
        for item in batch.items:
            on_step: StepCallback = progress.step
            if preview:
                on_step = writer.preview_writer(item.path, editor.manifest.latent.downsample, progress.step)
            result, pixels = run(editor, request, _request(settings, item.prompt, item.seed), on_step)
            if settings.transparent:
                pixels = _without_background(result, item.path)
            writer.write(
                item.path,
                pixels,
                settings_of(result, request, item.prompt, engine, settings.threads, settings.guidance),
            )
            values.append(summary(result, pixels, item.path, engine))
            if batch.sheet is not None:
                sheet.append((thumbnail(pixels), f"{item.seed}: {item.prompt or settings.task}"))
            progress.image_done()
    if batch.sheet is not None:
        images, labels = zip(*sheet, strict=True)
        writer.write(batch.sheet, contact_sheet(images, labels, batch.columns), None)
    return values


def _without_background(result: Result, path: Path) -> Pixels:
    """The objects of an image (h, w, 4)."""
    from microforge_runtimes.images.matte import transparent

    matte = transparent(result.image, result.alpha)
    if not matte.is_cut:
        say_warning(f"{path}: no object on a plain background is found; the image stays opaque")
    return matte.pixels


def _pack(
    model: Path, out: Path, words: tuple[str | None, str | None, str | None, list[str]], prompts: list[str],
    seed: int, count: int, opening: tuple[str | None, str | None, int | None, Path | None, int | None],
    private: bool, force: bool,
) -> dict[str, object]:  # fmt: skip
    """Make a sticker pack.

    Args:
        words: the platform, the pack's name and author, and the emoji.
        opening: the model's size, target, threads and public key, and the sampling steps.
    """
    from microforge.bundle.signature import read_key
    from microforge_runtimes.commands.batch import clean_prompt, plan_batch
    from microforge_runtimes.commands.pack import make_pack, pack_request
    from microforge_runtimes.open_model import Choice

    if not prompts:
        raise SpecError("Missing argument PROMPT: --pack needs a prompt per sticker")
    request = pack_request(out, *words, private=private, force=force)
    batch = plan_batch([clean_prompt(text) for text in prompts], seed, count, out)
    size, target, threads, key, steps = opening
    return make_pack(model, Choice(size, target, threads, read_key(key)), request, batch, steps)


def _request(settings: _Sampling, prompt: str | None, seed: int) -> Request:
    from microforge_runtimes.request import Request

    return Request(
        prompt, settings.task, seed=seed, steps=settings.steps, strength=settings.strength, negative=settings.negative,
        guidance=settings.guidance,
    )  # fmt: skip
