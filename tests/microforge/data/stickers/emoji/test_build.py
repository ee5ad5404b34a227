"""``mf-data stickers`` on miniature packages: what it writes, resumes and refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from microforge.data.stickers.catalogue import METADATA, read_catalogue
from microforge.data.stickers.emoji import build
from microforge.data.stickers.emoji.build import ATTRIBUTION, RECIPE, StickerSetBuild, build_stickers
from microforge.data.stickers.emoji.packages import NAMES, STYLES, open_package
from microforge.data.stickers.emoji.render import render_svg
from microforge.errors import DataError, OutputError, OutputExistsError

pytest.importorskip("resvg_py")


@pytest.fixture(scope="module")
def miniature() -> ModuleType:
    spec = importlib.util.spec_from_file_location("packages", Path(__file__).with_name("packages.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def packages(miniature: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = miniature.write_packages(tmp_path_factory.mktemp("packages"))
    return folder


def _build(out: Path, packages: Path, **options: bool) -> StickerSetBuild:
    return build_stickers(out, 32, packages, console=Console(quiet=True), **options)


def test_build_renders_every_subject_in_every_style_with_its_names(packages: Path, tmp_path: Path) -> None:
    result = _build(tmp_path / "set", packages)
    assert (result.pictures, result.subjects, result.left_out) == (8, 2, ())
    assert result.styles == ("flat", "glossy", "soft", "simple")
    apple, heart = read_catalogue(result.folder)[:2]
    assert (apple.file, apple.style, apple.group) == ("flat/1f34e.png", "flat", "food-drink")
    assert apple.names["en"] == ("red apple",) and apple.names["zh"] == ("red apple (zh)",)
    pixels = np.asarray(Image.open(result.folder / apple.file))
    assert pixels.shape == (32, 32, 4) and tuple(pixels[16, 16]) == (0xE0, 0x10, 0x20, 255)
    assert pixels[0, 0, 3] == 0
    mirrored = np.asarray(Image.open(result.folder / heart.file))[..., 3]
    assert mirrored[:, :16].max() == 0 and mirrored[:, 16:].min() == 255


def test_attribution_names_every_work_with_its_licence(packages: Path, tmp_path: Path) -> None:
    _build(tmp_path / "set", packages)
    text = (tmp_path / "set" / ATTRIBUTION).read_text("utf-8")
    for package in (*(style.package for style in STYLES), NAMES):
        assert package.title in text and f"[{package.license}]({package.license_url})" in text
        assert f"{package.npm} 1.2.3" in text


def test_build_goes_on_where_it_was_interrupted(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []

    def render(svg: str, side: int) -> bytes:
        if len(rendered) == 3:
            raise KeyboardInterrupt
        rendered.append(svg)
        return original(svg, side)

    original = render_svg
    monkeypatch.setattr(build, "render_svg", render)
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "set", packages)
    assert not (tmp_path / "set" / METADATA).exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.png")}
    remaining = iter([*"12345"])  # as many pictures as are missing
    monkeypatch.setattr(build, "render_svg", lambda svg, side: next(remaining) and original(svg, side))
    assert _build(tmp_path / "set", packages).pictures == 8
    assert len(before) == 3 and list(remaining) == []
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_build_never_replaces_a_finished_set_or_another_folder(packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    _build(out, packages)
    with pytest.raises(OutputExistsError, match="finished"):
        _build(out, packages)
    (out / METADATA).unlink()
    with pytest.raises(OutputExistsError, match="another size"):
        build_stickers(out, 64, packages, console=Console(quiet=True))
    assert build_stickers(out, 64, packages, force=True, console=Console(quiet=True)).pictures == 8
    assert Image.open(out / "flat/1f34e.png").size == (64, 64)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="holds other files"):
        _build(tmp_path / "mine", packages, force=True)


def test_build_names_the_missing_package_and_writes_nothing(packages: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="has no package @iconify-json/fluent-emoji-flat; allowed: node_modules"
    ):
        _build(tmp_path / "set", tmp_path)
    with pytest.raises(DataError, match="side is 8 px; allowed: 32 to 1024"):
        build_stickers(tmp_path / "set", 8, packages)
    assert not (tmp_path / "set").exists()


def test_packages_are_read_from_the_archives_of_npm_pack(miniature: ModuleType, tmp_path: Path) -> None:
    folder = miniature.write_packages(tmp_path / "archives", archives=True)
    place = open_package(folder, NAMES, tmp_path / "work")
    assert json.loads((place / "package.json").read_text("utf-8"))["name"] == "emojibase-data"
    flat = STYLES[0].package  # whose archive's name begins as that of "fluent-emoji" does
    assert (
        json.loads((open_package(folder, flat, tmp_path / "work") / "package.json").read_text())["name"]
        == flat.npm
    )
    fluent = STYLES[1].package
    assert (
        json.loads((open_package(folder, fluent, tmp_path / "work") / "package.json").read_text())["name"]
        == fluent.npm
    )


def test_same_pixels_of_one_style_are_one_sticker(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    png = render_svg('<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', 32)
    monkeypatch.setattr(build, "render_svg", lambda svg, side: png)
    result = _build(tmp_path / "set", packages)
    assert result.pictures == 4 and len(result.left_out) == 4
    assert "red heart" in result.left_out[0] and "same picture as red apple" in result.left_out[0]
    assert (tmp_path / "set" / RECIPE).is_file()
