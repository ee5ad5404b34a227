"""``mf-data stickers``: from npm packages to a folder of captioned RGBA pictures, resumable at any moment.

Every picture is written whole or not at all, and ``metadata.jsonl`` last: a folder without it is one that was
interrupted, and the same command goes on with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from microforge.data.stickers.catalogue import METADATA, Sticker, metadata_bytes
from microforge.data.stickers.emoji.icons import Icon, read_glyphs, read_icons, read_json
from microforge.data.stickers.emoji.names import LANGUAGES, Subject, read_subjects
from microforge.data.stickers.emoji.packages import NAMES, STYLES, Package, fetch_packages, open_package
from microforge.data.stickers.emoji.render import check_renderer, render_svg
from microforge.errors import DataError, OutputError, OutputExistsError
from microforge.io.atomic import atomic_bytes, check_output

#: What a folder was begun with: another size or other packages must not be mixed into it.
RECIPE = "recipe.json"
ATTRIBUTION = "ATTRIBUTION.md"
SIDES = (32, 1024)


@dataclass(frozen=True)
class StickerSetBuild:
    """What a finished folder holds."""

    folder: Path
    pictures: int
    subjects: int
    styles: tuple[str, ...]
    left_out: tuple[str, ...]  # one line each


@dataclass(frozen=True)
class _Task:
    sticker: Sticker
    icon: Icon


def build_stickers(
    out: Path,
    side: int = 256,
    packages: Path | None = None,
    force: bool = False,
    console: Console | None = None,
) -> StickerSetBuild:
    """Make the sticker set in ``out``.

    Args:
        side: of the pictures in pixels. packages: where the npm packages are; they are fetched when None.
        force: start over in a folder that is finished, or was begun with another recipe.

    Raises:
        DataError: when a package is missing or damaged. MissingExtraError: without resvg.
        OutputError, OutputExistsError: when ``out`` is not a folder that this command may fill.
    """
    console = console or Console(stderr=True)
    if not SIDES[0] <= side <= SIDES[1]:
        raise DataError(f"the side is {side} px; allowed: {SIDES[0]} to {SIDES[1]}")
    check_renderer()
    if packages is not None and not packages.is_dir():
        raise DataError(f"--packages {packages} is not a folder")
    _check_folder(out, force)
    with tempfile.TemporaryDirectory(prefix="microforge-stickers-") as work:
        if packages is None:
            fetch_packages(Path(work), console)
        places = _Places(packages or Path(work), Path(work) / "unpacked")
        recipe = _recipe(side, places)
        _claim(out, recipe, force)
        tasks = list(_tasks(places))
        stickers, left_out = _render_all(out, tasks, side, console)
    atomic_bytes(out / ATTRIBUTION, _attribution(recipe).encode("utf-8"), force=True)
    atomic_bytes(out / METADATA, metadata_bytes(stickers), force=True)
    return StickerSetBuild(
        out,
        len(stickers),
        len({item.subject for item in stickers}),
        tuple(style.style for style in STYLES),
        left_out,
    )


class _Places:
    """Opens each package once."""

    def __init__(self, folder: Path, work: Path) -> None:
        self._folder, self._work = folder, work
        self._places: dict[str, Path] = {}

    def __call__(self, package: Package) -> Path:
        if package.npm not in self._places:
            self._places[package.npm] = open_package(self._folder, package, self._work)
        return self._places[package.npm]


def _check_folder(out: Path, force: bool) -> None:
    """``out`` must be new, interrupted, or given up with ``force``; never somebody's other folder."""
    check_output(out, force=True)
    if not out.exists():
        return
    if out.is_symlink() or not out.is_dir():
        raise OutputError(f"cannot write {out}: it is not a folder")
    if any(out.iterdir()) and not (out / RECIPE).is_file():
        raise OutputError(
            f"cannot write into {out}: it holds other files and no {RECIPE}; choose another name"
        )
    if (out / METADATA).is_file() and not force:
        raise OutputExistsError(f"{out} is a finished sticker set; choose another name or pass --force")


def _claim(out: Path, recipe: dict[str, object], force: bool) -> None:
    """Write the recipe; with ``force`` earlier pictures are made anew."""
    path = out / RECIPE
    text = json.dumps(recipe, indent=1) + "\n"
    if path.is_file():
        same = path.read_text("utf-8") == text
        if not same and not force:
            raise OutputExistsError(
                f"{out} was begun with another size or other packages; pass --force to start over"
            )
        if force:
            (out / METADATA).unlink(missing_ok=True)
            for style in STYLES:
                for picture in (out / style.style).glob("*.png"):
                    picture.unlink()
    atomic_bytes(path, text.encode("utf-8"), force=True)


def _recipe(side: int, places: _Places) -> dict[str, object]:
    versions = {
        package.npm: str(read_json(places(package) / "package.json").get("version", ""))
        for package in (*(style.package for style in STYLES), NAMES)
    }
    return {"side": side, "languages": list(LANGUAGES), "packages": versions}


def _tasks(places: _Places) -> Iterator[_Task]:
    """Every picture there can be, style by style, subjects in Unicode's order."""
    subjects = read_subjects(places(NAMES))
    for style in STYLES:
        icons, glyphs = read_icons(places(style.package)), read_glyphs(places(style.glyphs))
        for subject in subjects:
            name = glyphs.get(subject.id)
            if name is not None and name in icons:
                yield _Task(_sticker(subject, style.style), icons[name])


def _sticker(subject: Subject, style: str) -> Sticker:
    file = f"{style}/{subject.id}.png"
    return Sticker(file, subject.id, style, subject.emoji, subject.group, subject.names, subject.tags)


def _render_all(
    out: Path, tasks: list[_Task], side: int, console: Console
) -> tuple[list[Sticker], tuple[str, ...]]:
    """Render what is not there yet. Two subjects of one style with the same pixels are one: the first is kept."""
    stickers: list[Sticker] = []
    left_out: list[str] = []
    seen: dict[tuple[str, bytes], str] = {}
    for task in track(tasks, "rendering stickers", console=console, transient=True):
        sticker, path = task.sticker, out / task.sticker.file
        try:
            data = path.read_bytes() if path.is_file() else render_svg(task.icon.svg(), side)
        except DataError as error:
            left_out.append(f"{sticker.file} ({sticker.name}): {error}")
            continue
        key = sticker.style, hashlib.sha256(data).digest()
        if key in seen:
            left_out.append(f"{sticker.file} ({sticker.name}): the same picture as {seen[key]}")
            continue
        if not path.is_file() and _is_empty(data):
            left_out.append(f"{sticker.file} ({sticker.name}): nothing can be seen in it")
            continue
        seen[key] = sticker.name
        if not path.is_file():
            atomic_bytes(path, data)
        stickers.append(sticker)
    return stickers, tuple(left_out)


def _is_empty(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return image.getchannel("A").getextrema()[1] == 0


def _attribution(recipe: dict[str, object]) -> str:
    """Who made the pictures and names, and under which licence: to be kept with the folder and with what is made of it."""
    versions = recipe["packages"]
    assert isinstance(versions, dict)
    lines = [
        "# Attribution", "",
        "The pictures in this folder were rendered without other changes from the icon sets below, in the style named first.",
        "Names and tags come from the last entry.", "",
        "| style | work | author | licence | npm package |", "|---|---|---|---|---|",
    ]  # fmt: skip
    rows = [(style.style, style.package) for style in STYLES] + [("names", NAMES)]
    for style, package in rows:
        lines.append(
            f"| {style} | [{package.title}]({package.home}) | {package.author} | "
            f"[{package.license}]({package.license_url}) | {package.npm} {versions[package.npm]} |"
        )
    return "\n".join(lines) + "\n"
