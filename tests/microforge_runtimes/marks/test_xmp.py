"""Marks and settings go into PNG, JPEG and WebP and come back; exiftool reads the IPTC mark."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.errors import DataError, OutputError
from microforge_runtimes.marks.image_encoding import Format, encode_image, image_format
from microforge_runtimes.marks.settings import Settings, parse_settings
from microforge_runtimes.marks.xmp import VOCABULARY, Marks, SourceType, read_marks, xmp_packet
from tests.microforge.io.images import P3, base_picture, encoded, matrix_profile

PIXELS = np.asarray(base_picture())
SETTINGS = Settings(
    task="edit", prompt="a <red> & \"blue\" circle — ✓ 日本 \u0001\r\n", seed=2**64 - 1, steps=4, height=256, width=384,
    bundle="0123456789ab", target="onnx", threads=1, source_sha256="a" * 64, composite=True,
)  # fmt: skip
FORMATS: tuple[Format, ...] = get_args(Format)
SOURCE_TYPES: tuple[SourceType, ...] = get_args(SourceType)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("source_type", SOURCE_TYPES)
def test_marks_and_settings_come_back_from_every_format(format: Format, source_type: SourceType) -> None:
    data = encode_image(PIXELS, format, source_type, SETTINGS)
    marks = read_marks(data)
    assert marks.source_type == source_type and marks.tool is not None and "microforge" in marks.tool
    assert marks.settings is not None and parse_settings(marks.settings) == SETTINGS
    assert data == encode_image(PIXELS, format, source_type, SETTINGS), "no time, no machine"
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format
        difference = np.abs(np.asarray(image, int) - PIXELS)
    assert difference.max() == 0 if format != "JPEG" else difference.mean() < 1


@pytest.mark.parametrize("format", FORMATS)
def test_without_settings_the_mark_alone_is_written(format: Format) -> None:
    data = encode_image(PIXELS, format, "trainedAlgorithmicMedia")
    assert read_marks(data) == Marks("trainedAlgorithmicMedia", tool=read_marks(data).tool)
    with Image.open(io.BytesIO(data)) as image:
        assert set(image.info) <= {"XML:com.adobe.xmp", "xmp", "Software", "jfif", "jfif_version", "jfif_unit", "jfif_density", "loop", "background", "timestamp", "duration"}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_exiftool_reads_the_mark_and_the_settings(tmp_path: Path, format: Format) -> None:
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed (Debian: libimage-exiftool-perl)")
    path = tmp_path / f"image.{format.lower()}"
    path.write_bytes(encode_image(PIXELS, format, "compositeWithTrainedAlgorithmicMedia", SETTINGS))
    command = ["exiftool", "-j", "-n", "-G1", "-charset", "utf8", str(path)]
    values = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)[0]
    assert values["XMP-iptcExt:DigitalSourceType"] == VOCABULARY + "compositeWithTrainedAlgorithmicMedia"
    assert values["XMP-dc:Description"].startswith('a <red> & "blue" circle — ✓ 日本')
    found = values["XMP-microforge:Settings"]
    assert (found if isinstance(found, dict) else json.loads(found))["seed"] == 2**64 - 1
    assert not [name for name in values if name.endswith((":Warning", ":Error"))]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparency_and_a_profile_are_written(format: Format) -> None:
    pixels = np.dstack([PIXELS, PIXELS[..., 0]])
    icc = matrix_profile(*P3)
    with Image.open(io.BytesIO(encode_image(pixels, format, "trainedAlgorithmicMedia", icc=icc))) as image:
        assert image.info["icc_profile"] == icc
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_jpeg_refuses_transparency_and_settings_beyond_its_segment() -> None:
    with pytest.raises(OutputError, match=r"transparent, which JPEG cannot hold; name the file \.png"):
        encode_image(np.dstack([PIXELS, PIXELS[..., 0]]), "JPEG", "trainedAlgorithmicMedia")
    long = SETTINGS.model_copy(update={"prompt": "x" * 70_000})
    with pytest.raises(OutputError, match="a JPEG holds 65502; name the file"):
        encode_image(PIXELS, "JPEG", "trainedAlgorithmicMedia", long)
    for format in ("PNG", "WEBP"):
        text = read_marks(encode_image(PIXELS, format, "trainedAlgorithmicMedia", long)).settings
        assert text is not None and parse_settings(text) == long


def test_image_format_is_named_by_the_ending() -> None:
    endings = ("a.png", "a.JPG", "a.jpeg", "a.webp")
    assert [image_format(Path(name)) for name in endings] == ["PNG", "JPEG", "JPEG", "WEBP"]
    with pytest.raises(OutputError, match=r"must end in one of \.png, \.jpg, \.jpeg, \.webp"):
        image_format(Path("a.gif"))


PROMPTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(prompt=PROMPTS, seed=st.integers(0, 2**64 - 1), format=st.sampled_from(FORMATS))
def test_any_prompt_comes_back_exactly(prompt: str, seed: int, format: Format) -> None:
    wanted = SETTINGS.model_copy(update={"prompt": prompt, "seed": seed})
    text = read_marks(encode_image(PIXELS[:8, :8], format, "trainedAlgorithmicMedia", wanted)).settings
    assert text is not None and parse_settings(text) == wanted


def test_read_marks_of_other_files_are_empty_or_one_line() -> None:
    assert read_marks(encoded(base_picture())) == Marks()
    for data, message in (
        (b"", "it is an empty file"),
        (encoded(base_picture(), "GIF"), "it is a GIF image"),
    ):
        with pytest.raises(DataError, match=f"which can hold settings: {message}"):
            read_marks(data)


@pytest.mark.parametrize(
    "packet",
    [
        "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><x>&a;</x>",
        "no xml",
        "<a>" * 3000,
        "",
        xmp_packet(Marks()),
    ],
)
def test_hostile_packets_say_nothing(packet: str) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2)).save(stream, "WEBP", xmp=packet.encode())
    assert read_marks(stream.getvalue()) == Marks()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot use"), ("[]", "cannot use"), ("{}", "cannot use"), ("null", "cannot use"),
        (SETTINGS.text().replace('"version": 1', '"version": 2'), "version: "),
        (SETTINGS.text().replace("18446744073709551615", "18446744073709551616"), "seed: "),
        (SETTINGS.text().replace('"seed"', '"surprise": 1, "seed"'), "surprise: is unknown"),
        (SETTINGS.text().replace('"steps": 4', '"steps": 0'), "steps: "),
        (SETTINGS.text().replace('"steps": 4', '"steps": "4"'), "steps: "),
        (SETTINGS.text().replace("256", "1e400"), "height: "),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse_settings(text)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(max_size=100), st.binary(max_size=60).map(lambda data: data.decode("latin-1"))))
def test_any_text_gives_settings_or_one_line(text: str) -> None:
    try:
        parse_settings(text)
    except DataError as error:
        assert "\n" not in str(error)
