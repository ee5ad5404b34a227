"""Files that a user names: regular files only, and text as editors save it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from microforge.bundle.devices import find_device
from microforge.errors import MicroForgeError
from microforge.io.image_decoding import read_image_file
from microforge.io.settings_file import read_toml
from microforge.io.user_file import (
    UnusableFileError,
    check_regular_file,
    decode_text,
    read_user_file,
    read_user_text,
)
from microforge.tokenizer import PromptTokenizer
from microforge_export.recipes.recipe_file import read_recipe

#: What reads a file that a user names, by the file's ending.
READERS: dict[str, Callable[[Path], object]] = {
    "settings.toml": read_toml,
    "device.toml": lambda path: find_device(str(path)),
    "recipe.toml": read_recipe,
    "tokenizer.json": PromptTokenizer.load,
    "image.png": read_image_file,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a pipe", "gone"])
def test_no_reader_of_a_users_file_waits_or_crashes(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(MicroForgeError) as caught:
        READERS[name](path)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)


def test_read_user_file_says_what_a_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        server.bind("socket")
    for name, reason in (
        ("pipe", "is a named pipe"),
        ("socket", "is a socket"),
        (".", "is a folder"),
        ("/dev/null", "is a device"),
    ):
        with pytest.raises(UnusableFileError, match=reason):
            read_user_file(tmp_path / name)
    with pytest.raises(UnusableFileError, match="null character"):
        check_regular_file(Path("a\0b"))
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(UnusableFileError, match="has 5 bytes; at most 4"):
        read_user_file(tmp_path / "large", 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("a = 1".encode("utf-16"), "is an? UTF-16 text file, not UTF-8; save it as UTF-8"),
        ("a = 1".encode("utf-16-le"), "null characters"),
        (b"caf\xe9", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\xff", "is a PNG image, not UTF-8"),
    ],
)
def test_decode_text_says_what_is_no_utf_8(data: bytes, reason: str) -> None:
    with pytest.raises(UnusableFileError, match=reason):
        decode_text(data)


def test_toml_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\r\nseed = 1\r\n")
    assert read_toml(path) == {"steps": 3, "seed": 1} and read_user_text(path).startswith("steps")
