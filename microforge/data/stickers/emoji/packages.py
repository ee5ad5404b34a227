"""The freely licensed npm packages that stickers are made from: which they are, fetching them, opening them.

A package is looked for in a folder as npm itself lays it out (``node_modules``), as an unpacked folder, or as the
archive that ``npm pack`` writes. Nothing is ever executed from a package: only its JSON files are read.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from microforge.errors import DataError

#: Seconds after which one download counts as failed.
TIMEOUT = 600


@dataclass(frozen=True)
class Package:
    """One npm package and the attribution that its licence requires."""

    npm: str
    title: str
    author: str
    license: str  # SPDX identifier
    license_url: str
    home: str

    @property
    def archive_prefix(self) -> str:
        """How ``npm pack`` names the archive, before the version: ``@scope/name`` -> ``scope-name-``."""
        return self.npm.removeprefix("@").replace("/", "-") + "-"


@dataclass(frozen=True)
class StylePackage:
    """A set of icons of one style; ``glyphs`` is the package that says which emoji each icon shows."""

    style: str
    package: Package
    glyphs: Package


_FLAT = Package(
    "@iconify-json/fluent-emoji-flat", "Fluent Emoji Flat", "Microsoft Corporation", "MIT",
    "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE", "https://github.com/microsoft/fluentui-emoji",
)  # fmt: skip
_FLUENT = Package(
    "@iconify-json/fluent-emoji", "Fluent Emoji", "Microsoft Corporation", "MIT",
    "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE", "https://github.com/microsoft/fluentui-emoji",
)  # fmt: skip
_NOTO = Package(
    "@iconify-json/noto", "Noto Emoji", "Google LLC", "Apache-2.0",
    "https://www.apache.org/licenses/LICENSE-2.0", "https://github.com/googlefonts/noto-emoji",
)  # fmt: skip
_TWEMOJI = Package(
    "@iconify-json/twemoji", "Twemoji", "Twitter, Inc. and other contributors", "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/", "https://github.com/jdecked/twemoji",
)  # fmt: skip
#: Names and tags of emoji in many languages.
NAMES = Package(
    "emojibase-data", "Emojibase", "Miles Johnson", "MIT",
    "https://github.com/milesj/emojibase/blob/master/LICENSE", "https://emojibase.dev",
)  # fmt: skip
#: Every style, in the order of the catalogue. Fluent Emoji has the icon names of its flat sister, but no list of glyphs.
STYLES = (
    StylePackage("flat", _FLAT, _FLAT),
    StylePackage("glossy", _FLUENT, _FLAT),
    StylePackage("soft", _NOTO, _NOTO),
    StylePackage("simple", _TWEMOJI, _TWEMOJI),
)
PACKAGES: tuple[Package, ...] = (*(style.package for style in STYLES), NAMES)


def fetch_packages(folder: Path, console: Console, packages: Sequence[Package] = PACKAGES) -> None:
    """Download the archives of ``packages`` into ``folder`` with ``npm pack``.

    Raises:
        DataError: when npm is missing or a download fails; says how to name packages by a path instead.
    """
    npm = shutil.which("npm")
    otherwise = "or pass --packages FOLDER with the packages in it"
    if npm is None:
        raise DataError(f"npm is not installed; install Node.js, {otherwise}")
    for package in packages:
        console.print(f"fetching {package.npm}", highlight=False)
        command = [npm, "pack", "--silent", "--ignore-scripts", package.npm]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            raise DataError(f"npm pack {package.npm} took over {TIMEOUT} s; try again, {otherwise}") from None
        if done.returncode != 0:
            reason = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
            raise DataError(f"npm pack {package.npm} failed ({reason}); try again, {otherwise}")


def open_package(folder: Path, package: Package, work: Path) -> Path:
    """The folder with ``package``'s files; an archive is unpacked into ``work`` first.

    Raises:
        DataError: when ``folder`` holds it in none of the three forms, or the archive is damaged.
    """
    short = package.npm.split("/")[-1]
    for place in (folder / "node_modules" / package.npm, folder / package.npm, folder / short):
        if (place / "package.json").is_file():
            return place
    archives = sorted(
        path for path in folder.glob(f"{package.archive_prefix}*.tgz")
        if path.name.removeprefix(package.archive_prefix)[:1].isdigit()
    )  # fmt: skip
    if not archives:
        raise DataError(
            f"{folder} has no package {package.npm}; allowed: node_modules/{package.npm}, {package.npm}, {short} "
            f"or {package.archive_prefix}VERSION.tgz"
        )
    target = work / short
    try:
        with tarfile.open(archives[-1]) as archive:
            archive.extractall(target, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archives[-1]} cannot be unpacked ({error}); download it again") from None
    return target / "package"
