"""A request for one image, and everything that is decided about it before an engine loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from microforge.bundle.consistency import parts_of, tables_for
from microforge.bundle.files import Bundle
from microforge.bundle.inputs import Bindings, Encoded, UserParameter
from microforge.bundle.manifest import Manifest, SizeEntry, reads_prompt
from microforge.bundle.sampling import SamplerTable, Scale, SourceEntry, Task
from microforge.errors import BundleError, PromptError, SpecError
from microforge.noise import check_seed
from microforge.tokenizer import TokenIds
from microforge_runtimes import latent_blending
from microforge_runtimes.arrays import Array
from microforge_runtimes.images import resampling
from microforge_runtimes.sampler import Floats, choose_table
from microforge_runtimes.tokenization import FramedTokenizer


@dataclass(frozen=True)
class Request:
    """What is asked of a bundle; None is the bundle's own choice.

    ``image`` is float32 (1, 3, H, W) in [0, 1] at the generator's size, smaller by an allowed factor for a task that
    enlarges. ``mask`` (1, 1, H, W) is 1 where the image may change. ``strength`` is the share of the steps that a task
    runs that starts from the image. ``guidance`` and ``parameters`` are numbers by the manifest's names.
    """

    prompt: str | None = None
    task: str | None = None
    image: Floats | None = None
    mask: Floats | None = None
    seed: int = 0
    steps: int | None = None
    strength: float | None = None
    negative: str | None = None
    guidance: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptText:
    """Text that encoders see; None is the empty prompt. ``user``: whether it is the user's prompt."""

    text: str | None
    user: bool = False


@dataclass(frozen=True)
class ActiveBranch:
    """A guidance branch that is evaluated: its prompt, all conditions of the network, and its weight.

    Branches are equal when one evaluation does for both.
    """

    prompt: PromptText
    bindings: Bindings
    weight: float = field(compare=False)


@dataclass(frozen=True)
class ImageUse:
    """Which latents an image encoder has to give: of the image that networks are shown, of the whole image."""

    shown: bool
    known: bool


@dataclass(frozen=True)
class Encodings:
    """Outputs by encoder and prompt (None for image encoders), and the normalized latent of the whole image."""

    outputs: Mapping[tuple[str, PromptText | None], Mapping[str, Array]]
    known: Floats | None = None


@dataclass(frozen=True)
class Checked:
    """A request that can be run.

    ``image`` (1, 3, H, W) is the user's, enlarged where the task enlarges; ``shown`` what networks see of it; ``mask``
    (1, 1, H, W) and ``cells`` (1, 1, h, w) are zeros and ones.
    """

    task: str
    entry: Task
    table: SamplerTable
    start: int
    branches: tuple[ActiveBranch, ...]
    tokens: Mapping[PromptText, Mapping[str, TokenIds]]
    prompt_encoders: Mapping[str, tuple[PromptText, ...]]
    image_encoders: Mapping[str, ImageUse]
    seed: int
    guidance: Mapping[str, float]
    parameters: Mapping[str, float]
    strength: float | None = None
    image: Floats | None = None
    shown: Floats | None = None
    mask: Floats | None = None
    cells: Floats | None = None

    @property
    def truncated(self) -> bool:
        """Whether ids of a prompt were cut off."""
        return any(item.truncated for tokens in self.tokens.values() for item in tokens.values())


def check_request(
    bundle: Bundle, size: SizeEntry, request: Request, tokenizer: Callable[[str], FramedTokenizer]
) -> Checked:
    """Decide everything about ``request`` at one size; ``tokenizer`` opens a tokenizer by its name.

    Raises:
        PromptError, SpecError, BundleError: as ``Generator.check``.
    """
    manifest, name = bundle.manifest, request.task or bundle.manifest.default_task
    if name not in manifest.tasks:
        raise BundleError(f"{bundle.path} cannot {name}; its tasks: {', '.join(manifest.tasks)}")
    task = manifest.tasks[name]
    check_seed(request.seed)
    strength = _strength(name, task, request.strength)
    table, start = choose_table(tables_for(manifest, size), request.steps, strength)
    guidance = _numbers("guidance scale", request.guidance, manifest.guidance)
    branches = active_branches(manifest, size, task, request, guidance)
    tokens = _tokens(manifest, name, task, request, branches, tokenizer)
    image, shown, mask = _images(name, task.source, size, request)
    prompts, images = _encoders(manifest, task, branches, mask is not None)
    return Checked(
        name, task, table, start, branches, tokens, prompts, images, request.seed, guidance,
        _numbers("parameter", request.parameters, manifest.parameters), strength, image, shown, mask,
        None if mask is None else latent_blending.latent_mask(mask, manifest.latent.downsample),
    )  # fmt: skip


def active_branches(
    manifest: Manifest, size: SizeEntry, task: Task, request: Request, guidance: Mapping[str, float]
) -> tuple[ActiveBranch, ...]:
    """The branches of a task whose weight is not 0.

    Raises:
        SpecError: for a negative prompt that no branch reads.
    """
    key = manifest.find(task.network, size.size)
    assert key is not None  # the manifest was checked
    inputs = {spec.name for spec in manifest.components[key].inputs}
    active = []
    for branch in task.branches:
        weight = branch.weight.value(guidance)
        given = {"user": request.prompt, "negative": request.negative, "empty": None}[branch.prompt]
        absent = branch.unprompted if branch.prompt == "negative" and given is None else {}
        bindings = {**manifest.conditions, **branch.conditions, **absent}
        if weight != 0.0:
            prompt = PromptText(given, branch.prompt == "user" and given is not None)
            kept = {name: item for name, item in bindings.items() if name in inputs}
            active.append((branch.prompt, ActiveBranch(prompt, kept, weight)))
    if request.negative is not None and "negative" not in [kind for kind, _ in active]:
        raise SpecError("this bundle takes no negative prompt here; leave it out")
    return tuple(item for _, item in active)


def _tokens(
    manifest: Manifest, name: str, task: Task, request: Request, branches: tuple[ActiveBranch, ...],
    tokenizer: Callable[[str], FramedTokenizer],
) -> dict[PromptText, dict[str, TokenIds]]:  # fmt: skip
    """The token ids of every prompt that a branch reads, by tokenizer."""
    if task.prompt == "none":
        if request.prompt is not None:
            raise SpecError(f"{name} takes no prompt; leave it out")
        return {item.prompt: {} for item in branches}
    if request.prompt is None and task.prompt == "required":
        raise PromptError(f"{name} needs a prompt; describe the result in a few words")
    for text in (request.prompt, request.negative):
        if text is not None and not isinstance(text, str):
            raise PromptError(f"the prompt is {type(text).__name__}; it must be text")
        if text is not None and any(tokenizer(key).is_empty(text) for key in manifest.tokenizers):
            raise PromptError("the prompt is empty; describe the image in a few words")
    return {
        item.prompt: {
            key: tokenizer(key).encode(item.prompt.text, name, item.prompt.user)
            for key in manifest.tokenizers
        }
        for item in branches
    }


def _encoders(
    manifest: Manifest, task: Task, branches: tuple[ActiveBranch, ...], is_masked: bool
) -> tuple[dict[str, tuple[PromptText, ...]], dict[str, ImageUse]]:
    """What has to be encoded: prompts by encoder, and images by encoder."""
    prompts: dict[str, dict[PromptText, None]] = {}
    images: dict[str, ImageUse] = {}
    for name, encoder in manifest.encoders.items():
        readers = [
            branch.prompt
            for branch in branches
            for expression in branch.bindings.values()
            for part in parts_of(expression)
            if isinstance(part, Encoded) and part.encoder == name
        ]
        source = task.source
        keeps = source is not None and (
            is_masked or source.start is not None or source.preserve_distances is not None
        )
        known = keeps and source is not None and source.encoder == name
        if reads_prompt(encoder) and readers:
            prompts[name] = dict.fromkeys(readers)
        elif not reads_prompt(encoder) and (readers or known):
            images[name] = ImageUse(bool(readers), known)
    return {name: tuple(values) for name, values in prompts.items()}, images


def _images(
    name: str, source: SourceEntry | None, size: SizeEntry, request: Request
) -> tuple[Floats | None, Floats | None, Floats | None]:
    """The user's image at the generator's size, what networks are shown of it, and the mask as zeros and ones."""
    image, mask = request.image, request.mask
    if source is None:
        if image is not None or mask is not None:
            raise SpecError(f"{name} takes no image")
        return None, None, None
    if image is None:
        raise SpecError(f"{name} needs an image")
    if not isinstance(image, np.ndarray) or not np.isfinite(image).all():
        what = "holds NaN or infinity" if isinstance(image, np.ndarray) else f"is {type(image).__name__}"
        raise SpecError(f"the image {what}; it must be finite float32[1, 3, {size.height}, {size.width}]")
    if source.enlarge is not None:
        image = _enlarged(name, image, size, source)
    if image.shape != (1, 3, size.height, size.width) or image.dtype != np.float32:
        raise SpecError(
            f"the image is {image.dtype}{list(image.shape)}; it must be float32[1, 3, {size.height}, {size.width}]"
        )
    if mask is None:
        if source.mask == "required":
            raise SpecError(f"{name} needs a mask")
        return image, image, None
    if source.mask == "none":
        raise SpecError(f"{name} takes no mask")
    mask = latent_blending.check_mask(mask, size.height, size.width)
    value = source.masked_value
    return image, image if value is None else latent_blending.masked(image, mask, value), mask


def _enlarged(name: str, image: Floats, size: SizeEntry, source: SourceEntry) -> Floats:
    """``image`` at the generator's size."""
    entry = source.enlarge
    assert entry is not None
    allowed = sorted({factor * times for factor in entry.factors for times in (1, entry.oversampling)})
    factor = size.height // image.shape[2] if image.ndim == 4 and image.shape[2] else 0
    if factor not in allowed or image.shape[2:] != (size.height // factor, size.width // factor):
        sizes = ", ".join(f"{size.height // item}x{size.width // item}" for item in allowed)
        raise SpecError(f"{name} to {size.size} needs an image of one of: {sizes}; got {list(image.shape)}")
    return resampling.upsampled(image, factor)


def _strength(name: str, task: Task, strength: float | None) -> float | None:
    start = None if task.source is None else task.source.start
    if start is None:
        if strength is not None:
            raise SpecError(f"strength does not belong to {name}")
        return None
    chosen = start.strength if strength is None else strength
    if not isinstance(chosen, (int, float)) or not 0.0 < chosen <= 1.0:
        raise SpecError(f"strength is {str(chosen)[:40]}; allowed: above 0, at most 1")
    return chosen


def _numbers(
    what: str, chosen: Mapping[str, float], known: Mapping[str, Scale | UserParameter]
) -> dict[str, float]:
    """Every number of ``known``, the user's where there is one."""
    for name, value in chosen.items():
        if name not in known:
            allowed = f"this bundle has: {', '.join(known)}" if known else "this bundle has none"
            raise SpecError(f"{what} {name!r} is unknown; {allowed}")
        if not known[name].low <= value <= known[name].high:
            low, high = known[name].low, known[name].high
            raise SpecError(f"{what} {name} is {value:g}; allowed: {low:g} to {high:g}")
    return {name: chosen.get(name, item.default) for name, item in known.items()}
