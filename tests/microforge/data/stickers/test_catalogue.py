"""Sticker catalogues: what a line or a file's name says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.data.stickers.catalogue import (
    METADATA,
    Sticker,
    catalogue_fingerprint,
    metadata_bytes,
    read_catalogue,
)
from microforge.errors import DataError

_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=12)
_NAMES = st.dictionaries(
    st.sampled_from(("en", "es", "zh")), st.lists(_TEXT, min_size=1, max_size=3).map(tuple), min_size=1
)


def test_files_without_metadata_are_named_by_themselves(sprites: Path) -> None:
    stickers = read_catalogue(sprites)
    assert len(stickers) == 8
    assert stickers[0] == Sticker(
        "plain/subject-0.png", "subject-0", "plain", "", "own", {"en": ("subject 0",)}, {}
    )


@given(names=_NAMES, tags=_NAMES, emoji=_TEXT)
def test_metadata_is_read_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    names: dict[str, tuple[str, ...]],
    tags: dict[str, tuple[str, ...]],
    emoji: str,
) -> None:
    folder = tmp_path_factory.mktemp("set")
    (folder / "a.png").write_bytes(b"")
    item = Sticker("a.png", "1f42e", "flat", emoji, "animals", names, tags)
    (folder / METADATA).write_bytes(metadata_bytes([item]))
    assert read_catalogue(folder) == (item,)


def test_an_own_line_needs_a_file_and_a_name_alone(tmp_path: Path) -> None:
    (tmp_path / "x.webp").write_bytes(b"")
    (tmp_path / METADATA).write_text('{"file_name": "x.webp", "text": "Red Panda"}\n')
    (item,) = read_catalogue(tmp_path)
    assert (item.subject, item.style, item.name) == ("red-panda", "own", "Red Panda")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "a"}, 'line 1: no "file_name"'),
        ({"file_name": "../a.png", "text": "a"}, 'no "file_name" relative to the folder'),
        ({"file_name": "a.jpg", "text": "a"}, r"not a .png or .webp file"),
        ({"file_name": "b.png", "text": "a"}, "b.png does not exist"),
        ({"file_name": "a.png", "text": " "}, 'no "text" and no "names"'),
        ([], "not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, row: object, says: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / METADATA).write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=says):
        read_catalogue(tmp_path)


def test_a_folder_without_stickers_says_how_to_make_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="sticker"):
            read_catalogue(folder)


def test_fingerprint_follows_pictures_and_names_but_not_the_place(sprites: Path, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(sprites, moved)  # keeps times
    before = catalogue_fingerprint(sprites, read_catalogue(sprites))
    assert catalogue_fingerprint(moved, read_catalogue(moved)) == before
    (moved / "plain" / "subject-0.png").rename(moved / "plain" / "apple.png")
    assert catalogue_fingerprint(moved, read_catalogue(moved)) != before
