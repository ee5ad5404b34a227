"""Frames of token ids: prefix, cut, suffix, padding and mask, as the manifest says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microforge.bundle.entry import FileEntry
from microforge.bundle.inputs import Tokenizer
from microforge.errors import BundleError
from microforge.tokenizer import PromptTokenizer, train_tokenizer
from microforge_runtimes.tokenization import FramedTokenizer

FILE = FileEntry(path="tokenizer.json", sha256="0" * 64, bytes=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    PromptTokenizer(train_tokenizer(["a red circle", "a blue square"], 300)).save(path)
    return path


def _framed(path: Path, **values: Any) -> FramedTokenizer:
    frame: dict[str, Any] = {"length": 8, "prefix": {"generate": (1, 4)}, "suffix": (2,), "pad": 0, **values}
    return FramedTokenizer(Tokenizer(file=FILE, **frame), path)


def _ids(path: Path, text: str) -> list[int]:
    return list(_framed(path, length=100, prefix={"generate": ()}, suffix=()).encode(text, "generate").ids)


def _unpadded(ids: list[int]) -> list[int]:
    return [value for value in ids if value != 0]


def test_a_prompt_stands_between_prefix_and_suffix_and_the_mask_leaves_padding_out(path: Path) -> None:
    own = _unpadded(_ids(path, "ab"))
    tokens = _framed(path).encode("ab", "generate")
    row = [1, 4, *own, 2]
    assert list(tokens.ids) == row + [0] * (8 - len(row)) and not tokens.truncated
    assert list(tokens.mask) == [1.0] * len(row) + [0.0] * (8 - len(row))
    assert tokens.ids.dtype == np.int64 and tokens.mask.dtype == np.float32


def test_the_empty_prompt_is_the_frame_alone(path: Path) -> None:
    assert list(_framed(path).encode(None, "generate").ids) == [1, 4, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("side", "kept"), [("right", slice(0, 5)), ("left", slice(-5, None))])
def test_a_long_prompt_loses_the_end_that_truncation_names_and_never_its_frame(
    path: Path, side: str, kept: slice
) -> None:
    own = _unpadded(_ids(path, "xyzxyzuvw"))
    assert len(own) > 5
    tokens = _framed(path, truncation=side).encode("xyzxyzuvw", "generate")
    assert list(tokens.ids) == [1, 4, *own[kept], 2] and tokens.truncated and tokens.mask.all()


def test_padding_on_the_left_stands_before_the_frame(path: Path) -> None:
    tokens = _framed(path, padding="left", pad=9).encode(None, "generate")
    assert list(tokens.ids) == [9] * 5 + [1, 4, 2] and list(tokens.mask) == [0.0] * 5 + [1.0] * 3


def test_text_before_a_prompt_is_for_the_users_own_alone(path: Path) -> None:
    plain, framed = _framed(path, length=60), _framed(path, length=60, before="a red ")
    assert list(framed.encode("circle", "generate").ids) == list(plain.encode("a red circle", "generate").ids)
    assert list(framed.encode("circle", "generate", user=False).ids) == list(
        plain.encode("circle", "generate").ids
    )
    assert list(framed.encode(None, "generate").ids) == list(plain.encode(None, "generate").ids)


def test_a_pad_that_is_also_the_suffix_is_masked_by_its_place(path: Path) -> None:
    """As in CLIP, whose end of text pads too."""
    tokens = _framed(path, pad=2).encode("a", "generate")
    count = 3 + len(_unpadded(_ids(path, "a")))
    assert list(tokens.mask) == [1.0] * count + [0.0] * (8 - count)
    assert set(tokens.ids[count:].tolist()) == {2}


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match=r"is not a tokenizer\.json"):
        _framed(tmp_path / "tokenizer.json")
