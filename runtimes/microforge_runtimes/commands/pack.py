"""``mf-generate --pack``: stickers of all prompts as a pack for a messenger.

Every image is generated at the model's size, cut out, enlarged by the model's own super-resolution, outlined and encoded
within the platform's limits. The pack's folder appears whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from microforge.errors import SpecError
from microforge.io.atomic import atomic_folder, check_output
from microforge.io.console import say_warning
from microforge_runtimes.commands.output import settings_of
from microforge_runtimes.commands.progress import GenerationProgress
from microforge_runtimes.images.matte import EDGE, Pixels, transparent
from microforge_runtimes.images.source_request import source_request
from microforge_runtimes.open_model import Choice, check, is_checkpoint, open_model, run
from microforge_runtimes.request import Request
from microforge_runtimes.stickers.emoji_names import UNKNOWN, emoji_of
from microforge_runtimes.stickers.layout import lay_out, visible_box
from microforge_runtimes.stickers.pack import MARKER, PackSticker, StickerPack, pack_files
from microforge_runtimes.stickers.platforms import PlatformRules, check_pack, platform_rules

if TYPE_CHECKING:
    from microforge_runtimes.commands.batch import Batch
    from microforge_runtimes.editor import Editor

#: Pixels around an object that are enlarged with it, as a share of its longer side.
_PADDING = 0.08


@dataclass(frozen=True)
class PackRequest:
    """What ``--pack`` and its companions ask for. ``emoji`` has one text per prompt, or is empty."""

    out: Path
    rules: PlatformRules
    name: str
    author: str
    emoji: tuple[str, ...]
    private: bool
    force: bool


def pack_request(
    out: Path, platform: str | None, name: str | None, author: str | None, emoji: Sequence[str],
    private: bool, force: bool,
) -> PackRequest:  # fmt: skip
    """The request, with defaults for what is None.

    Raises:
        SpecError: for an unknown platform.
    """
    title = out.name.replace("-", " ").replace("_", " ").strip() if name is None else name
    rules = platform_rules(platform or "")
    return PackRequest(out, rules, title, author or "MicroForge", tuple(emoji), private, force)


def make_pack(
    model: Path, choice: Choice, request: PackRequest, batch: Batch, steps: int | None
) -> dict[str, object]:
    """Generate the stickers of ``batch`` and write their pack; what ``--json`` prints.

    Raises:
        SpecError: for a pack that the platform would refuse, or emoji that do not match the prompts.
        OutputExistsError, OutputError: when the folder cannot be written.
        BundleError, CheckpointError, PromptError: as ``open_model`` and ``check``.
    """
    prompts = list(dict.fromkeys(item.prompt or "" for item in batch.items))
    check_pack(request.rules, len(batch.items), request.name, request.author)
    emoji = _emoji(prompts, request)
    check_output(request.out, request.force)
    stickers = list(_stickers(model, choice, request, batch, steps, emoji))
    pack = StickerPack(request.name, request.author, tuple(stickers), request.private)
    files = pack_files(pack, request.rules)
    with atomic_folder(request.out, request.force, marker=MARKER) as folder:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return {
        "pack": str(request.out.absolute()), "platform": request.rules.name, "stickers": len(stickers),
        "files": sorted(files),
    }  # fmt: skip


def _emoji(prompts: Sequence[str], request: PackRequest) -> dict[str, tuple[str, ...]]:
    """The emoji of every prompt: the user's, else those whose names stand in it."""
    low, most = request.rules.emoji
    if request.emoji:
        if len(request.emoji) != len(prompts):
            raise SpecError(
                f"--emoji is given {len(request.emoji)} times for {len(prompts)} prompts; give it once per prompt"
            )
        chosen = [tuple(dict.fromkeys(split_emoji(text))) for text in request.emoji]
        for text, emoji in zip(request.emoji, chosen, strict=True):
            if not low <= len(emoji) <= most:
                raise SpecError(
                    f"--emoji {text!r} has {len(emoji)} emoji; {request.rules.name} allows {low} to {most}"
                )
        return dict(zip(prompts, chosen, strict=True))
    names = {prompt: emoji_of(prompt, most) for prompt in prompts}
    for prompt in (prompt for prompt, emoji in names.items() if not emoji):
        say_warning(f"no emoji's name stands in {prompt!r}; it gets {UNKNOWN}; choose others with --emoji")
    return {prompt: emoji or (UNKNOWN,) for prompt, emoji in names.items()}


def split_emoji(text: str) -> Iterator[str]:
    """The single emoji of ``text``: joined sequences, flags and variation selectors stay together."""
    parts: list[str] = []
    for char in text:
        is_flag = "\U0001f1e6" <= char <= "\U0001f1ff"
        continues = char in "\ufe0f\u200d\u20e3" or "\U0001f3fb" <= char <= "\U0001f3ff"
        if parts and (
            continues
            or parts[-1].endswith("\u200d")
            or (is_flag and len(parts[-1]) == 1 and "\U0001f1e6" <= parts[-1] <= "\U0001f1ff")
        ):
            parts[-1] += char
        elif not char.isspace() and char != ",":
            parts.append(char)
    return iter(parts)


def _stickers(
    model: Path, choice: Choice, request: PackRequest, batch: Batch, steps: int | None,
    emoji: dict[str, tuple[str, ...]],
) -> Iterator[PackSticker]:  # fmt: skip
    engine = "torch" if is_checkpoint(model) else choice.target or "onnx"
    rules = request.rules
    with open_model(model, choice) as editor, GenerationProgress(len(batch.items)) as progress:
        editor.keep_loaded = True
        for prompt in dict.fromkeys(item.prompt for item in batch.items):
            if check(editor, None, Request(prompt, steps=steps)).truncated:
                say_warning(
                    f"{prompt!r} is longer than {editor.max_length} tokens; the rest of it is ignored"
                )
        enlarge = _enlargement(editor)
        for item in batch.items:
            sample = Request(item.prompt, seed=item.seed, steps=steps)
            result, _ = run(editor, None, sample, progress.step)
            pixels = cut_and_enlarge(
                editor, result.image, result.alpha, enlarge, rules, f"{item.prompt!r}, seed {item.seed}"
            )
            settings = settings_of(result, None, item.prompt, engine, choice.threads)
            prompt = item.prompt or ""
            yield PackSticker(
                lay_out(pixels, rules.sticker.side, rules.margin, rules.outline), prompt, item.seed,
                emoji[prompt], None if request.private else settings,
            )  # fmt: skip
            progress.image_done()


@dataclass(frozen=True)
class EnlargingTask:
    """The task that enlarges, and its factors in rising order."""

    task: str
    factors: tuple[int, ...]


def _enlargement(editor: Editor) -> EnlargingTask | None:
    for name, task in editor.manifest.tasks.items():
        if task.source is not None and task.source.enlarge is not None:
            return EnlargingTask(name, tuple(sorted(task.source.enlarge.factors)))
    say_warning("this model cannot enlarge images; stickers are resampled instead")
    return None


def cut_and_enlarge(
    editor: Editor, colors: Pixels, alpha: Pixels | None, enlarge: EnlargingTask | None, rules: PlatformRules,
    label: str,
) -> Pixels:  # fmt: skip
    """The object of a generated image (h, w, 3), about as large as its sticker needs it, (h', w', 4).

    Alpha of the model is enlarged with the colours; without it, the background is found again in the enlarged image,
    whose edges are sharper.
    """
    matte = transparent(colors, alpha)
    box = visible_box(matte.pixels)
    if not matte.is_cut or box is None:
        say_warning(f"{label}: no object on a plain background is found; the sticker keeps its background")
        box = slice(0, colors.shape[0]), slice(0, colors.shape[1])
    longest = max(span.stop - span.start for span in box)
    pad = round(_PADDING * longest) + 2
    rows, columns = (
        slice(max(0, span.start - pad), min(side, span.stop + pad))
        for span, side in zip(box, colors.shape[:2], strict=True)
    )
    part = matte.pixels if alpha is not None else colors
    part = np.ascontiguousarray(part[rows, columns])
    room = rules.sticker.side - 2 * (rules.margin + rules.outline)
    factor = 1
    if enlarge is not None and longest < room:
        factor = next((item for item in enlarge.factors if item * longest >= room), enlarge.factors[-1])
        part = _enlarged(editor, part, enlarge.task, factor)
    if part.shape[2] == 4:
        return part
    return transparent(part, None, factor * EDGE).pixels


def _enlarged(editor: Editor, pixels: Pixels, task: str, factor: int) -> Pixels:
    """``pixels`` (h, w, 3 or 4) ``factor`` times larger, by the model."""
    from microforge_runtimes.images.image_file import read_source_image

    entry = editor.manifest.tasks[task].source
    assert entry is not None
    source = source_request(task, entry, read_source_image(pixels), factor=factor)
    return run(editor, source, Request(task=task))[1]
