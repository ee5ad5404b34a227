"""Files from strangers: every reader accepts its input or refuses it in one line, and does nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.judge import Reader, judge
from tests.fuzz.targets import READERS, missing_package, reader

NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(package), reason=f"{package} is not installed"))
    for name, package in ((name, missing_package(name)) for name in READERS)
]


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What readers set for their runs is set back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setattr("tempfile.tempdir", None)
    yield


@st.composite
def changed(draw: st.DrawFn, target: Reader) -> bytes:
    """A seed with some changes: bytes replaced, removed, repeated, cut off, or words and parts of other seeds put in."""
    data = bytearray(draw(st.sampled_from(target.seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 64])))
        kind = draw(st.sampled_from(["byte", "remove", "repeat", "cut", "word", "splice", "number"]))
        if kind == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "remove":
            del data[at:end]
        elif kind == "repeat":
            data[at:at] = data[at:end] * draw(st.integers(1, 40))
        elif kind == "cut":
            del data[at:]
        elif kind == "word" and target.words:
            data[at:end] = draw(st.sampled_from(target.words))
        elif kind == "number":
            data[at:end] = draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
            )
        elif kind == "splice":
            other = draw(st.sampled_from(target.seeds))
            start = draw(st.integers(0, len(other)))
            data[at:end] = other[start : start + 200]
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_every_seed_is_accepted_or_refused_in_one_line(name: str) -> None:
    target = reader(name)
    accepted = [judge(target, seed) for seed in target.seeds]
    assert accepted[0], "the first seed is a whole file"


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_changed_files_are_accepted_or_refused_in_one_line(name: str, data: st.DataObject) -> None:
    target = reader(name)
    judge(target, data.draw(changed(target)))
