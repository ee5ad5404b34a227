"""Names as different systems write them: what is the same file, and what is not guessed."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from microforge.data.files.names import NameIndex, comparable


def test_find_prefers_the_exact_name_then_composed_form_then_letter_case() -> None:
    index = NameIndex(["a/é.png", "a/e\u0301.png", "b.png", "C.PNG", "x\\y.png"])
    assert index.find("a/é.png") == "a/é.png" and index.find("a/e\u0301.png") == "a/e\u0301.png"
    assert index.find(".\\b.png") == "b.png" and index.find("./b.PNG") == "b.png"
    assert index.find("c.png") == "C.PNG" and index.find("x\\y.png") == "x\\y.png"


def test_find_does_not_choose_between_several() -> None:
    index = NameIndex(["A.png", "a.PNG", "é.png", "e\u0301.png"])
    assert index.find("a.png") is None and index.find("É.png") is None and index.find("gone.png") is None


@given(
    st.text(st.characters(exclude_characters="/\\\0"), min_size=1).filter(
        lambda name: name not in (".", "..")
    )
)
def test_find_takes_every_form_of_a_name(name: str) -> None:
    path = f"folder/{name}"
    index = NameIndex([path])
    for form in ("NFC", "NFD"):
        assert index.find(unicodedata.normalize(form, path)) == path
        assert index.find(unicodedata.normalize(form, path).replace("/", "\\")) == path
    assert comparable(comparable(path)) == comparable(path)
