"""WebDataset shards: plain tar files that hold KEY.jpg (png, webp, ...) with KEY.txt or KEY.json.

Shards are read with ``tarfile`` and not with the ``webdataset`` package. That package streams shards through shuffle
buffers, so the images of a step depend on all earlier steps, while a resumed run must find the images of step N from N
alone. Here each shard is scanned once, an index file stores the offset of every image, and images are read at random.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from microforge.data.files.captioned import (
    MAX_CAPTION_BYTES,
    CaptionedImage,
    Listing,
    captions_of_json,
    captions_of_text,
    clean_captions,
    fingerprint,
    is_clutter,
)
from microforge.data.files.decode import SUFFIXES
from microforge.data.skipped import Skipped, printable
from microforge.errors import DataError
from microforge.io.atomic import atomic_bytes

#: Increased when the format of the index changes; older index files are then rebuilt.
INDEX_VERSION = 2
#: Larger members are not read as images, because a member must fit in memory.
MAX_IMAGE_BYTES = 256 << 20
MAX_SHARDS = 100_000
#: Suffixes that WebDataset reads as text and as JSON.
_TEXTS, _JSON = (".txt", ".text", ".transcript"), (".json", ".jsn")
_BRACES = re.compile(r"\{(?:([0-9]{1,18})\.\.([0-9]{1,18})|([^{}]*,[^{}]*))\}")


@dataclass
class _Sample:
    """The members of a shard that share one key; ``field`` is what the key has after the first dot of the base name."""

    image: tuple[str, int, int] | None = None  # name of the member, offset, length in bytes
    captions: tuple[str, ...] = ()
    reason: str = "no caption"
    field: str = ""


@dataclass(frozen=True)
class ShardIndex:
    """Index of one shard: (member, offset, length, captions) of each usable image, and (member, reason) of others."""

    images: tuple[tuple[str, int, int, tuple[str, ...]], ...]
    skipped: tuple[tuple[str, str], ...]


def expand_shards(pattern: str) -> tuple[Path, ...]:
    """Paths of the shards that ``pattern`` names: a file, ``data/{000..127}.tar``, ``{a,b}.tar``, or with ``*``.

    Raises:
        DataError: when ``pattern`` matches nothing, a file does not exist, or there are more than ``MAX_SHARDS``.
    """
    if os.path.isfile(pattern):
        return (Path(pattern),)
    paths: list[Path] = []
    for text in _expanded(pattern):
        if "*" in text or "?" in text or ("[" in text and not os.path.exists(text)):
            paths += _matching(text)
        else:
            paths.append(Path(text))
        if len(paths) > MAX_SHARDS:
            raise DataError(f"{pattern} names more than {MAX_SHARDS} shards")
    for path in paths:
        if not os.path.isfile(path):  # also for a name that is too long
            raise DataError(
                f"{str(path)[:300]} does not exist; all {len(paths)} shards of {pattern[:300]} must be there"
            )
    if not paths:
        raise DataError(f"{pattern} names no file; allowed: a .tar file, data/{{000..127}}.tar, data/*.tar")
    return tuple(paths)


def _matching(pattern: str) -> list[Path]:
    """The files that ``pattern`` with ``*``, ``?`` or ``[...]`` names, sorted.

    Raises:
        DataError: for a pattern that is none.
    """
    anchor = Path(pattern).anchor
    try:
        return sorted(Path(anchor or ".").glob(pattern[len(anchor) :]))
    except (ValueError, NotImplementedError, re.error, RecursionError) as error:
        raise DataError(f"{pattern[:200]} is no pattern of shards: {error}") from None


def list_shards(shards: Sequence[Path], cache: Path, console: Console) -> Listing:
    """List the captioned images of ``shards``, in the order of shards and members.

    Args:
        shards: paths of the tar files.
        cache: folder for the index files; they are reused while a shard's size and time stay the same.
        console: shows progress while shards are scanned.

    Raises:
        DataError: when no shard has an image with a caption, or one is compressed.
    """
    images, stamps, skipped = [], [], []
    names = _shard_names(shards)
    for path in track(shards, "reading shards", console=console, disable=len(shards) < 2, transient=True):
        stamp = _stamp(path)
        index = _indexed(path, stamp, cache)
        shard = names[path]
        skipped += [Skipped(f"{shard}/{name}".rstrip("/"), reason) for name, reason in index.skipped]
        for name, offset, size, captions in index.images:
            images.append(CaptionedImage(f"{shard}/{name}", captions, path, offset, size))
            stamps.append(f"{stamp} {offset} {size}")
    if not images:
        first = f" (first: {printable(skipped[0].name)}: {skipped[0].reason})" if skipped else ""
        raise DataError(
            f"{shards[0]}{f' and {len(shards) - 1} more' if len(shards) > 1 else ''} hold no image with a caption{first}; "
            "a sample is KEY.jpg with KEY.txt, or KEY.json with caption or text"
        )
    return Listing(tuple(images), tuple(skipped), fingerprint(images, stamps))


def _shard_names(shards: Sequence[Path]) -> dict[Path, str]:
    """What messages call each shard: its name, or its path where two have the same name."""
    counts = Counter(path.name for path in set(shards))
    return {path: path.name if counts[path.name] == 1 else path.as_posix() for path in shards}


def _expanded(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, names = match.groups()
    if names is not None:
        options: Iterator[str] = iter(names.split(","))
    else:
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        options = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    for option in options:
        yield from _expanded(pattern[: match.start()] + option + pattern[match.end() :])


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _indexed(path: Path, stamp: str, cache: Path) -> ShardIndex:
    """Index of a shard from the cache; it is built and stored there when it is missing or outdated."""
    location = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    file = cache / f"{path.stem[:64]}-{location}.json"
    index = _read_index(file, stamp)
    if index is None:
        index = index_shard(path)
        if not index.images:
            return index  # a mistyped path leaves no file in the cache
        values = {"version": INDEX_VERSION, "stamp": stamp, "images": index.images, "skipped": index.skipped}
        atomic_bytes(file, json.dumps(values).encode("ascii"), force=True)
    return index


def _read_index(file: Path, stamp: str) -> ShardIndex | None:
    try:
        values = json.loads(file.read_bytes())
        if (values["version"], values["stamp"]) != (INDEX_VERSION, stamp):
            return None
        return ShardIndex(
            tuple((name, offset, size, tuple(captions)) for name, offset, size, captions in values["images"]),
            tuple((name, reason) for name, reason in values["skipped"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: it is rebuilt
        return None


def index_shard(path: Path) -> ShardIndex:
    """Scan one shard and record the offset of every captioned image; damage ends the scan, not the run.

    Raises:
        DataError: when the shard is compressed, which prevents random access.
    """
    samples: dict[str, _Sample] = {}
    skipped: list[tuple[str, str]] = []
    with path.open("rb") as stream:
        if stream.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
            raise DataError(f"{path} is compressed; shards must be plain .tar files: decompress it")
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as shard:
                while (member := shard.next()) is not None:
                    _add_member(shard, member, samples, skipped)
                    shard.members.clear()  # type: ignore[attr-defined]  # tarfile would keep a kilobyte of each
                end = shard.offset
            stream.seek(end)
            if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                skipped.append(("", f"damaged at byte {end}, the rest is lost"))
        except (tarfile.TarError, ValueError, OverflowError) as error:
            skipped.append(("", f"damaged ({error})"))
    return _complete_samples(samples, skipped, path.stat().st_size)


def _complete_samples(
    samples: Mapping[str, _Sample], skipped: list[tuple[str, str]], total: int
) -> ShardIndex:
    """Index of the samples of a shard of ``total`` bytes; incomplete ones are added to ``skipped``."""
    images = []
    for key, sample in _joined_fields(samples).items():
        if sample.image is None:
            if sample.captions or sample.reason != "no caption":
                skipped.append((key, "caption without an image"))
        elif sample.image[1] + sample.image[2] > total:
            skipped.append((sample.image[0], "cut off by the end of the shard"))
        elif sample.captions:
            images.append((*sample.image, sample.captions))
        else:
            skipped.append((sample.image[0], sample.reason))
    return ShardIndex(tuple(images), tuple(skipped))


def _joined_fields(samples: Mapping[str, _Sample]) -> dict[str, _Sample]:
    """``samples``, with those incomplete ones joined that WebDataset takes for fields of one sample.

    To it the key of ``00000.image.jpg`` and ``00000.caption.txt`` ends at the first dot of the base name. Here it ends at
    the last one, so that names with dots stay apart; only what forms no sample so, and has fields with names (numbers
    are none), is joined, and only to a single image.
    """
    groups: dict[str, list[str]] = {}
    for key, sample in samples.items():
        incomplete = sample.image is None or not sample.captions
        if incomplete and (
            not sample.field or sample.field.replace(".", "_").replace("-", "_").isidentifier()
        ):
            groups.setdefault(key.removesuffix(f".{sample.field}") if sample.field else key, []).append(key)
    joined = dict(samples)
    for keys in groups.values():
        images = [key for key in keys if samples[key].image is not None]
        texts = [key for key in keys if samples[key].image is None and samples[key].captions]
        if len(images) != 1 or not texts:
            continue
        captions = clean_captions(caption for key in texts for caption in samples[key].captions)
        joined[images[0]] = replace(samples[images[0]], captions=captions)
        for key in (key for key in keys if samples[key].image is None):
            del joined[key]
    return joined


def _add_member(
    shard: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, _Sample],
    skipped: list[tuple[str, str]],
) -> None:  # fmt: skip
    """Add one member to the sample of its key; members of other kinds (classes, masks as .npy) are ignored."""
    folder, _, base = member.name.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    suffix = dot + suffix.lower()
    if not member.isfile() or is_clutter(base) or suffix not in (*SUFFIXES, *_TEXTS, *_JSON):
        return
    key = f"{folder}/{stem}" if folder else stem
    sample = samples.setdefault(key, _Sample(field=stem.partition(".")[2]))
    if suffix in SUFFIXES:
        if member.size > MAX_IMAGE_BYTES or member.issparse():
            skipped.append((member.name, f"{member.size} bytes; at most {MAX_IMAGE_BYTES}, and not sparse"))
        elif sample.image is not None:
            skipped.append((member.name, f"a second image of {key}"))
        else:
            sample.image = (member.name, member.offset_data, member.size)
        return
    file = shard.extractfile(member)
    data = b"" if file is None else file.read(MAX_CAPTION_BYTES + 1)
    captions = captions_of_text(data) if suffix in _TEXTS else captions_of_json(data)
    if isinstance(captions, str):
        sample.reason = captions
    else:
        sample.captions = clean_captions((*sample.captions, *captions))
