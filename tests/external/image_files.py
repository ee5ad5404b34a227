"""Reads image files that others wrote to break decoders: Pillow's own test images, and PngSuite with its pixels.

``python tests/external/image_files.py --pillow FOLDER --pngsuite FOLDER --out docs/external/image_files.json``

Every file goes through the reader of source images, that of masks and that of training data. Each ends as "read", or as
"refused" with one line (``DataError``). Anything else is a defect: another exception, more than ten seconds, or, for
PngSuite, a pixel that is not the reference's. Exit 1 when there is a defect.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from microforge.data.files.decode import decode_image
from microforge.errors import DataError
from microforge.io.atomic import atomic_bytes
from microforge.io.console import command_app, run
from microforge.io.image_decoding import decode_image_bytes
from microforge_runtimes.images.image_file import SourceImage, read_mask, read_source_image

app = command_app("Read image files of other projects.")
MAX_SECONDS = 10.0
TRAINING_SIZE = (256, 256)  # (height, width) in pixels
#: A source of any size, for masks that are read alone.
_BLANK = SourceImage(np.zeros((32, 32, 3), np.uint8))


def outcome(read: Callable[[], object]) -> str:
    """How reading one file ends: "read", "refused", or what is wrong."""
    started = time.monotonic()
    try:
        read()
    except DataError as error:
        if "\n" in str(error):
            return f"refused in more than one line: {str(error)[:120]!r}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:120]}"
    seconds = time.monotonic() - started
    return "read" if seconds <= MAX_SECONDS else f"took {seconds:.0f} s"


def reference_pixels(path: Path) -> NDArray[np.int64] | None:
    """PngSuite's pixels (N, 4) with 8 bits per sample for one of its files; None where it has none."""
    folder = path.parents[1] / "json"
    for name in (f"{path.stem}_to8.json", f"{path.stem}.json"):
        if (folder / name).is_file():
            values = np.asarray(json.loads((folder / name).read_text("utf-8")), np.int64).reshape(
                -1, 4
            )  # (N, 4)
            return values // 257 if values.max() > 255 else values
    return None


def compare_pixels(path: Path) -> str:
    """Whether our pixels of a PngSuite file are the reference's: "equal", "no reference", "refused" or what is wrong.

    Sixteen bits are reduced to eight by division by 257 or by 256, so these may differ by one level. Where a pixel is
    wholly transparent its colour is not seen and not compared.
    """
    try:
        decoded = decode_image_bytes(path.read_bytes())
    except DataError:
        return "refused"
    expected = reference_pixels(path)
    if expected is None:
        return "no reference"
    pixels = np.asarray(decoded.image.convert("RGBA"), np.int64).reshape(-1, 4)  # (N, 4)
    if pixels.shape != expected.shape:
        return f"{len(pixels)} pixels in place of {len(expected)}"
    seen = expected[:, 3:] > 0
    difference = int((np.abs(pixels - expected) * np.hstack([seen, seen, seen, np.ones_like(seen)])).max())
    return (
        "equal" if difference <= (1 if decoded.bits > 8 else 0) else f"differs by up to {difference} levels"
    )


def survey(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """Counts of how reading every file below ``folder`` ends, and the defects by file."""
    counts: Counter[str] = Counter()
    defects: dict[str, str] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        readers: dict[str, Callable[[], object]] = {
            "source": partial(read_source_image, path),
            "mask": partial(read_mask, path, _BLANK),
            "training": partial(decode_image, data, TRAINING_SIZE),
        }
        for name, read in readers.items():
            result = outcome(read)
            kind = result if result in ("read", "refused") else "defect"
            counts[f"{name}: {kind}"] += 1
            if kind == "defect":
                defects[f"{path.relative_to(folder)} ({name})"] = result
    return dict(sorted(counts.items())), defects


def png_suite(folder: Path) -> tuple[dict[str, int], dict[str, str]]:
    """As ``survey`` for the pixels of PngSuite's files."""
    counts: Counter[str] = Counter()
    defects: dict[str, str] = {}
    for path in sorted((folder / "png").glob("*.png")):
        result = compare_pixels(path)
        kind = result if result in ("equal", "refused", "no reference") else "different"
        counts[kind] += 1
        if kind == "different":
            defects[path.name] = result
    return dict(sorted(counts.items())), defects


@app.command(
    epilog="Example: python tests/external/image_files.py --pillow build/external/pillow-13.0.0/Tests/images "
    "--pngsuite build/external/pngsuite --out build/external/image_files.json --force"
)
def main(
    pillow: Annotated[Path, typer.Option(help="Folder Tests/images of Pillow's source package.")],
    pngsuite: Annotated[Path, typer.Option(help="Folder of PngSuite with its references (png/ and json/).")],
    out: Annotated[Path, typer.Option(help="JSON file with the counts.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> int:
    """Read every file, compare PngSuite's pixels, and count how each ends."""
    for folder in (pillow, pngsuite / "png"):
        if not folder.is_dir():
            raise DataError(f"{folder} is no folder of images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's notes on odd files
        files, file_defects = survey(pillow)
        suite_files, suite_defects = survey(pngsuite / "png")
        pixels, pixel_defects = png_suite(pngsuite)
    values = {
        "pillow": files,
        "pngsuite": suite_files,
        "pngsuite_pixels": pixels,
        "defects": {**file_defects, **suite_defects, **pixel_defects},
    }
    atomic_bytes(out, (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode(), force)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{json.dumps(values, indent=1, ensure_ascii=False)}\npeak memory {peak:.0f} MB", file=sys.stderr)
    return 1 if values["defects"] else 0


if __name__ == "__main__":
    run(app)
