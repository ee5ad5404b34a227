"""Tokenizers with the ids that they give for every one of ``strings``."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from microforge.tokenizer import SHIPPED_TOKENIZER

#: CLIP's byte-level BPE as this package has it; ``clip_tokenizer`` made it.
CLIP_TOKENIZER = Path(__file__).parent / "clip.tokenizer.json.gz"
_CLIP_MERGES = 49_152 - 256 - 2


def tokenizer_files() -> Mapping[str, str]:
    """The ``tokenizer.json`` texts by name: one per kind that bundles have."""
    return {
        "microforge": SHIPPED_TOKENIZER.read_text("utf-8"),
        "clip": gzip.decompress(CLIP_TOKENIZER.read_bytes()).decode("utf-8"),
    }


def token_lines(tokenizer_json: str, texts: Sequence[str]) -> str:
    """A line of JSON per text, ``{"text": ..., "ids": [...]}``, in ASCII; ids are without special tokens."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    lines = (
        json.dumps({"text": text, "ids": encoding.ids}, separators=(",", ":"))
        for text, encoding in zip(texts, encodings, strict=True)
    )
    return "".join(f"{line}\n" for line in lines)


def clip_tokenizer(vocabulary: Path) -> str:
    """CLIP's ``tokenizer.json`` from ``bpe_simple_vocab_16e6.txt.gz``, which the package open-clip-torch (MIT) holds.

    The layout is that of the files which Hugging Face publishes beside CLIP models.
    """
    lines = gzip.decompress(vocabulary.read_bytes()).decode("utf-8").split("\n")
    merges = [line.split() for line in lines[1 : 1 + _CLIP_MERGES]]
    characters = list(_byte_characters().values())
    tokens = [*characters, *(f"{item}</w>" for item in characters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    values = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_special(tokens.index(token), token) for token in tokens[-2:]],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {
                "type": "Split", "behavior": "Removed", "invert": True,
                "pattern": {"Regex": "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+"},
            },
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip
    return json.dumps(values, ensure_ascii=True, separators=(",", ":"))


def _special(index: int, token: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": token, **flags}


def _byte_characters() -> dict[int, str]:
    """The character that stands for each byte, in the order of CLIP's vocabulary: printable bytes come first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
