"""External text encoders of the library transformers: CLIP, Gemma-2, BERT and MiniLM.

``HuggingFaceTextEncoder`` implements the protocol of ``microforge.text_encoder`` and ``HuggingFaceTokenizer`` the interface
of the built-in tokenizer, so the pipeline takes both; ``replace(spec, text_encoder=encoder.spec)`` gives the denoiser their
width. transformers is imported only when a model is read; the extra ``text`` installs it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from microforge.errors import CheckpointError, PromptError, SpecError, missing_extra
from microforge.io.quiet import quiet
from microforge.layers import MASKED, mask_bias
from microforge.spec import TASKS, TextEncoderSpec
from microforge.tokenizer import PromptTokenizer, TokenIds

ReadT = TypeVar("ReadT")

#: L by default, unless the model's own limit is lower.
DEFAULT_LENGTH = 64
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


def _causal(length: int, window: int | None = None) -> Tensor:
    """Causal attention bias (L, L); with ``window``, tokens that far back are masked, too."""
    hidden = torch.ones(length, length).triu(1)
    if window is not None and window < length:
        hidden = hidden + torch.ones(length, length).tril(-window)
    return hidden * MASKED


# The models' own masks hold the lowest float32, which overflows in half precision. Therefore each of the functions below
# runs a model with an additive bias of -10000, (B, 1, 1, L) or (B, 1, L, L), in place of its own mask.
# They take ids (B, L) and a padding bias (B, 1, 1, L) and return hidden states (B, L, E).
def _clip(model: Any, ids: Tensor, padding: Tensor) -> Tensor:
    text = getattr(model, "text_model", model)  # transformers 4 nests the text model
    hidden = text.embeddings(input_ids=ids)
    bias = padding + _causal(ids.shape[1]).to(padding)
    hidden = text.encoder(inputs_embeds=hidden, attention_mask=bias).last_hidden_state
    return text.final_layer_norm(hidden)  # type: ignore[no-any-return]


def _gemma2(model: Any, ids: Tensor, padding: Tensor) -> Tensor:
    length, window = ids.shape[1], model.config.sliding_window
    masks = {
        "full_attention": padding + _causal(length).to(padding),
        "sliding_attention": padding + _causal(length, window).to(padding),
    }
    return model(input_ids=ids, attention_mask=masks, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


def _bert(model: Any, ids: Tensor, padding: Tensor) -> Tensor:
    hidden = model.embeddings(input_ids=ids)
    bias = padding.expand(-1, 1, ids.shape[1], -1)
    return model.encoder(hidden, attention_mask=bias).last_hidden_state  # type: ignore[no-any-return]


def _mean(text: Tensor, mask: Tensor) -> Tensor:
    """Mean pooling: hidden states (B, L, E) and mask (B, L) to (B, E)."""
    weights = mask.unsqueeze(-1)  # (B, L, 1)
    return (text * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def _last(text: Tensor, mask: Tensor) -> Tensor:
    """Last-token pooling, which CLIP uses: the hidden state of the end token, (B, L, E) and (B, L) to (B, E)."""
    following = torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    return (text * (mask * (1.0 - following)).unsqueeze(-1)).sum(1)


@dataclass(frozen=True)
class Family:
    """How models of one class are run: ``hidden`` computes the last hidden states, ``pool`` the pooled vector."""

    name: str
    class_name: str
    hidden: Callable[[Any, Tensor, Tensor], Tensor]
    pool: Callable[[Tensor, Tensor], Tensor]


_CLIP = Family("clip", "CLIPTextModel", _clip, _last)
_GEMMA2 = Family("gemma2", "Gemma2Model", _gemma2, _mean)
_BERT = Family("bert", "BertModel", _bert, _mean)
#: ``model_type`` of a config.json -> family. Of a whole CLIP model the text encoder is used.
FAMILIES = {"bert": _BERT, "clip": _CLIP, "clip_text_model": _CLIP, "gemma2": _GEMMA2}


class HuggingFaceTextEncoder(nn.Module):
    """A transformers model as a text encoder; ``spec`` describes it, ``embed_dim`` is E."""

    def __init__(self, model: nn.Module, max_length: int | None = None) -> None:
        """Wrap a ``CLIPTextModel``, ``Gemma2Model`` or ``BertModel``, whose prompts are padded on the right.

        Args:
            model: of transformers.
            max_length: L; by default ``DEFAULT_LENGTH``, or the model's own limit when that is lower.

        Raises:
            SpecError: for a model of another class, or a ``max_length`` that it does not allow.
        """
        super().__init__()
        class_name = type(model).__name__
        families = {family.class_name: family for family in FAMILIES.values()}
        if class_name not in families:
            raise SpecError(
                f"{class_name} is not supported as a text encoder; allowed: {', '.join(families)}"
            )
        self.family = families[class_name]
        self.model = model.eval()
        config = self.config
        if self.family is _GEMMA2:  # fused attention has no soft cap
            self.model.set_attn_implementation("eager")  # type: ignore[operator]
        length = _length(max_length, int(config.max_position_embeddings))
        self.spec = TextEncoderSpec(
            config.hidden_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.vocab_size,
            length,
        )
        self.embed_dim = self.spec.embed_dim

    @classmethod
    def from_pretrained(cls, source: str | Path, max_length: int | None = None) -> HuggingFaceTextEncoder:
        """Load a model from safetensors, with all weights in float32.

        Args:
            source: a folder, or a model id of the Hugging Face hub.
            max_length: L, as in the constructor.

        Raises:
            MissingExtraError: when transformers is not installed.
            CheckpointError: when there is no such model, or it is damaged or incomplete.
            SpecError: for an architecture or a ``max_length`` that is not supported.
        """
        library, local = _transformers(), _is_folder(source)
        kind = _read(
            source, lambda: library.AutoConfig.from_pretrained(source, local_files_only=local)
        ).model_type
        if kind not in FAMILIES:
            allowed = ", ".join(FAMILIES)
            raise SpecError(
                f"{source}: architecture {kind!r} is not supported as a text encoder; allowed: {allowed}"
            )
        family = FAMILIES[kind]
        loader = getattr(library, family.class_name)
        extra = {"add_pooling_layer": False} if family is _BERT else {}

        def load() -> tuple[nn.Module, dict[str, Any]]:
            model_and_info: tuple[nn.Module, dict[str, Any]] = loader.from_pretrained(
                source, local_files_only=local, use_safetensors=True, dtype=torch.float32,
                attn_implementation="eager", output_loading_info=True, **extra,
            )  # fmt: skip
            return model_and_info

        model, info = _read(source, load)
        missing = sorted({*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])})
        if missing:  # transformers would initialise them at random
            raise CheckpointError(
                f"{source}: weights are missing or of another shape: {', '.join(missing[:3])}"
            )
        return cls(model, max_length)

    @property
    def config(self) -> Any:
        """The transformers configuration of the model."""
        return self.model.config

    def encode(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, L) and mask (B, L) to (text (B, L, E), pooled (B, E)); padding changes nothing."""
        mask = mask.to(torch.float32)
        text = self.family.hidden(self.model, ids, mask_bias(mask)[:, None, None, :])
        return text, self.family.pool(text, mask)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As ``encode``."""
        return self.encode(ids, mask)


#: External tokenizers have no reserved task tokens, so these words before the prompt name the task.
TASK_PREFIXES = {task: "" if task == "generate" else f"{task}: " for task in TASKS}


class HuggingFaceTokenizer(PromptTokenizer):
    """The tokenizer of an external text encoder, which pads every prompt to one length on the right."""

    _FIXED_LENGTH = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer whose padding is set to a fixed length.

        Raises:
            CheckpointError: when it has none.
        """
        padding = tokenizer.padding
        if not padding or not padding.get("length"):
            raise CheckpointError(
                "the tokenizer pads to no fixed length; write it with mf-export text-encoder"
            )
        self.length, self.pad_id = int(padding["length"]), int(padding["pad_id"])
        self._padded = tokenizer
        plain = Tokenizer.from_str(tokenizer.to_str())
        plain.no_padding()
        plain.no_truncation()
        plain.encode_special_tokens = True  # a prompt that spells an end token is ordinary characters
        self._tokenizer = plain

    @classmethod
    def from_pretrained(cls, source: str | Path, length: int = DEFAULT_LENGTH) -> HuggingFaceTokenizer:
        """Load the tokenizer of a model.

        Args:
            source: a folder, or a model id of the Hugging Face hub.
            length: L, the tokens of every encoded prompt.

        Raises:
            MissingExtraError: when transformers is not installed.
            CheckpointError: when there is none, or it has no tokenizer.json form or no padding token.
        """
        library, local = _transformers(), _is_folder(source)
        loaded = _read(source, lambda: library.AutoTokenizer.from_pretrained(source, local_files_only=local))
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise CheckpointError(
                f"{source}: its tokenizer has no tokenizer.json form; convert it to one first"
            )
        token = loaded.pad_token or loaded.eos_token
        if token is None:
            raise CheckpointError(f"{source}: its tokenizer has neither a padding nor an end token; name one")
        tokenizer = Tokenizer.from_str(backend.to_str())
        tokenizer.enable_truncation(length)
        pad_id = int(loaded.convert_tokens_to_ids(token))
        tokenizer.enable_padding(direction="right", pad_id=pad_id, pad_token=token, length=length)
        return cls(tokenizer)

    @classmethod
    def from_file(cls, path: str | Path) -> HuggingFaceTokenizer:
        """Read the ``tokenizer.json`` of an exported text encoder.

        Raises:
            CheckpointError: when it is missing, not a tokenizer, or pads to no fixed length.
        """
        tokenizer = cls.load(path)
        assert isinstance(tokenizer, HuggingFaceTokenizer)
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write the ``tokenizer.json``, its fixed length included."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(self._padded.to_str(), encoding="utf-8")

    def encode(self, text: str, task: str = "generate", max_length: int | None = None) -> TokenIds:
        """Encode one prompt; text that does not fit is cut off, special tokens stay.

        Raises:
            PromptError: for an empty or blank prompt.
            SpecError: for an unknown task, or a ``max_length`` that holds no text.
        """
        if not self.tokens(text):
            raise PromptError("the prompt is empty; describe the image in a few words")
        return self._framed(text, task, max_length)

    def encode_empty(self, task: str = "generate", max_length: int | None = None) -> TokenIds:
        """Encode the empty prompt, which guidance contrasts with: special tokens and the task prefix."""
        return self._framed("", task, max_length)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids`` without special tokens."""
        return str(self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=True))

    def _framed(self, text: str, task: str, max_length: int | None) -> TokenIds:
        if task not in TASK_PREFIXES:
            raise SpecError(f"unknown task {task!r}; allowed: {', '.join(TASK_PREFIXES)}")
        length = self.length if max_length is None else max_length
        room = length - self._tokenizer.num_special_tokens_to_add(False)
        if room < 1:
            raise SpecError(f"max_length is {length}; at least {length - room + 1} is needed")
        clean = (TASK_PREFIXES[task] + text).encode("utf-8", "replace").decode("utf-8")
        encoding = self._tokenizer.encode(clean, add_special_tokens=False)
        truncated = len(encoding) > room
        encoding.truncate(room)
        row = self._tokenizer.post_process(encoding).ids
        ids = np.full(length, self.pad_id, dtype=np.int64)
        ids[: len(row)] = row
        # Without special tokens the empty prompt would have no token at all, so one padding token represents it.
        mask = (np.arange(length) < max(len(row), 1)).astype(np.float32)
        return TokenIds(ids, mask, truncated)


def _length(max_length: int | None, limit: int) -> int:
    if max_length is None:
        return min(DEFAULT_LENGTH, limit)
    if not 4 <= max_length <= limit:
        raise SpecError(f"length is {max_length}; this model allows 4 to {limit} tokens")
    return max_length


def _transformers() -> Any:
    try:
        with quiet("torch.utils._pytree"):  # torchao, if installed, logs a warning when it is imported
            library = importlib.import_module("transformers")
            for name in ("AutoConfig", "AutoTokenizer", *(family.class_name for family in FAMILIES.values())):
                getattr(library, name)  # transformers imports each name, and torchao, on first use
        return library
    except ImportError:
        raise missing_extra("transformers", "text") from None


def _is_folder(source: str | Path) -> bool:
    """Whether ``source`` is a folder; otherwise it has the form of a hub id.

    Raises:
        CheckpointError: when it is neither.
    """
    if Path(source).is_dir():
        return True
    if Path(source).exists() or not _HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"{source} is no folder; give the folder of a transformers model, or a hub id")
    return False


def _read(source: str | Path, load: Callable[[], ReadT]) -> ReadT:
    """The result of ``load``; an error of the library becomes one line."""
    try:
        with quiet("transformers", "huggingface_hub"):
            return load()
    except Exception as error:  # loaders raise exceptions of several libraries without a common base
        reason = " ".join(str(error).split())[:240] or type(error).__name__
        raise CheckpointError(f"{source} cannot be read as a text encoder: {reason}") from None
