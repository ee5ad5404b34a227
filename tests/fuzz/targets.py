"""The readers of formats that come from strangers, each with valid inputs to start from."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tests.fuzz import seeds
from tests.fuzz.judge import Reader

#: Images in fuzzing have at most this many pixels, so that one input takes milliseconds.
MAX_PIXELS = 1 << 22


def reader(name: str) -> Reader:
    """The target called ``name``; its heavy imports happen here."""
    return READERS[name]()


@cache
def folder() -> Path:
    """The only folder that readers may touch; in memory where the system has such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="microforge-fuzz-", dir=place)).resolve()
    import atexit

    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _manifest() -> Reader:
    from microforge.bundle.files import parse_manifest
    from microforge.errors import BundleError

    def read(data: bytes) -> None:
        manifest = parse_manifest(data)
        for name in manifest.tasks:
            manifest.stages(name)
            manifest.active_branches(name)
        for table in manifest.samplers:
            table.starts()

    return Reader("manifest", seeds.manifests(), read, (BundleError,), folder(), seeds.JSON_WORDS)


def _tokenizer() -> Reader:
    from microforge.bundle.inputs import Tokenizer
    from microforge.errors import BundleError, CheckpointError, PromptError
    from microforge.tokenizer import PromptTokenizer
    from microforge_runtimes.tokenization import FramedTokenizer

    path = folder() / "tokenizer.json"
    entry = Tokenizer.model_validate(seeds.tokenizer_entry())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        FramedTokenizer(entry, path).encode("a red circle", "generate")
        tokenizer = PromptTokenizer.load(path)
        for text in ("a red circle left of a blue square", "É \udce9 <eos> 日本 " * 3):
            tokenizer.encode(text)

    refusals = (BundleError, CheckpointError, PromptError)
    return Reader("tokenizer", seeds.tokenizers(), read, refusals, folder(), seeds.TOKENIZER_WORDS)


def _config() -> Reader:
    from microforge.checkpoint import CONFIG, WEIGHTS, read_spec
    from microforge.errors import CheckpointError
    from microforge.spec import ModelSpec, from_dict, to_dict

    checkpoint = folder() / "config"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / WEIGHTS).write_bytes(b"")

    def read(data: bytes) -> None:
        (checkpoint / CONFIG).write_bytes(data)
        spec = read_spec(checkpoint)
        assert from_dict(ModelSpec, json.loads(json.dumps(to_dict(spec)))) == spec, "changes when it is saved"

    return Reader("config", seeds.configs(), read, (CheckpointError,), folder(), seeds.JSON_WORDS)


def _safetensors() -> Reader:
    from microforge.checkpoint import CONFIG, WEIGHTS, read_checkpoint
    from microforge.errors import CheckpointError

    checkpoint = folder() / "weights"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / CONFIG).write_bytes(seeds.configs()[0])

    def read(data: bytes) -> None:
        (checkpoint / WEIGHTS).write_bytes(data)
        for tensor in read_checkpoint(checkpoint).tensors.values():
            assert not tensor.is_floating_point() or bool(tensor.isfinite().all()), "not finite"

    return Reader("safetensors", seeds.weights(), read, (CheckpointError,), folder(), seeds.WEIGHT_WORDS)


def _image() -> Reader:
    from PIL import Image

    from microforge.data.files.decode import decode_image
    from microforge.errors import DataError
    from microforge_runtimes.images.image_file import read_source_image

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    path = folder() / "image"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        try:
            image = read_source_image(path)
            assert image.stored.dtype == np.uint8 and image.on_white.shape == (*image.size, 3)
        finally:
            pixels = decode_image(data, (32, 32), spare=True)
            assert pixels.ndim == 3 and pixels.shape[2] == 3

    return Reader("image", seeds.images(), read, (DataError,), folder(), seeds.IMAGE_WORDS)


def _mask() -> Reader:
    from PIL import Image

    from microforge.errors import DataError
    from microforge_runtimes.images.image_file import SourceImage, read_mask

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    path = folder() / "mask"
    source = SourceImage(np.zeros((8, 12, 3), np.uint8))

    def read(data: bytes) -> None:
        path.write_bytes(data)
        mask = read_mask(path, source)
        assert mask.shape == (8, 12) and mask.dtype == np.bool_ and mask.any()

    return Reader("mask", seeds.masks(), read, (DataError,), folder(), seeds.IMAGE_WORDS)


def _size() -> Reader:
    from microforge.errors import SpecError
    from microforge.spec import parse_size

    def read(data: bytes) -> None:
        height, width = parse_size(data.decode("utf-8", "surrogateescape"))
        assert height > 0 and width > 0 and height % 32 == width % 32 == 0

    texts = (b"256", b"256x384", b"32X32", b"99968x32", b" 256 ", b"-1x0", "٣٢x٣٢".encode())
    return Reader("size", texts, read, (SpecError,), folder(), (b"x", b"X", b"256", b"0"))


def _memory() -> Reader:
    from microforge.errors import SpecError
    from microforge_benchmarks.measure.memory import MIN_LIMIT, parse_bytes

    def read(data: bytes) -> None:
        assert MIN_LIMIT <= parse_bytes(data.decode("utf-8", "surrogateescape")) < 1 << 63

    texts = (b"3GB", b"512MiB", b"1.5 gib", b"70000000", b"1e9", b"9" * 400 + b"GB", "٣GB".encode())
    return Reader("memory", texts, read, (SpecError,), folder(), (b"GB", b"MiB", b"KB", b".", b"9" * 20))


def _archive() -> Reader:
    from microforge.bundle.files import load_bundle
    from microforge.bundle.pack import unpack_bundle
    from microforge.errors import BundleError, OutputError

    place = folder() / "archive"
    place.mkdir(exist_ok=True)
    tempfile.tempdir = str(place)
    path, out = place / "model.mfb.zip", place / "out"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        bundle = load_bundle(path)
        assert bundle.archive is not None
        assert sum(member.bytes for member in bundle.archive.members.values()) <= len(data)
        for entry in bundle.files():
            assert bundle.checked(entry).stat().st_size == entry.bytes
        try:
            unpack_bundle(path, out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return Reader(
        "archive", seeds.archives(), read, (BundleError, OutputError), folder(), seeds.ARCHIVE_WORDS
    )


def _captions() -> Reader:
    from microforge.data.files.captioned import captions_of_json, captions_of_text
    from microforge.data.files.metadata import CSV, METADATA, read_metadata

    place = folder() / "captions"
    place.mkdir(exist_ok=True)

    def read(data: bytes) -> None:
        for captions in (captions_of_text(data), captions_of_json(data)):
            assert captions and (isinstance(captions, str) or all(text.strip() for text in captions))
        for name in (METADATA, CSV):
            (place / name).write_bytes(data)
            rows, skipped = read_metadata(place / name)
            assert all(row.file_name and row.captions for row in rows)
            assert all("\n" not in item.reason for item in skipped)

    return Reader("captions", seeds.captions(), read, (), folder(), seeds.JSON_WORDS)


def _parquet() -> Reader:
    from microforge.data.files.metadata import read_metadata

    path = folder() / "metadata.parquet"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        rows, skipped = read_metadata(path)
        assert all(row.file_name and row.captions for row in rows)
        assert all("\n" not in item.reason for item in skipped)

    return Reader("parquet", seeds.parquets(), read, (), folder(), (b"PAR1",))


def _shard() -> Reader:
    from rich.console import Console

    from microforge.data.files.shards import list_shards
    from microforge.errors import DataError

    place = folder() / "shards"
    place.mkdir(exist_ok=True)
    path, console = place / "0.tar", Console(quiet=True)

    def read(data: bytes) -> None:
        path.write_bytes(data)
        shutil.rmtree(place / "cache", ignore_errors=True)
        for image in list_shards((path,), place / "cache", console).images:
            assert len(image.read()) == image.length and image.captions

    return Reader("shard", seeds.shards(), read, (DataError,), folder(), seeds.TAR_WORDS)


def _marks() -> Reader:
    from microforge.errors import DataError
    from microforge_runtimes.marks.settings import parse_settings
    from microforge_runtimes.marks.xmp import read_marks

    def read(data: bytes) -> None:
        marks = read_marks(data)
        if marks.settings is not None:
            parse_settings(marks.settings)

    return Reader("marks", seeds.marked_images(), read, (DataError,), folder(), seeds.MARK_WORDS)


def _device() -> Reader:
    from microforge.bundle.devices import find_device
    from microforge.errors import SpecError

    path = folder() / "device.toml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        assert find_device(str(path)).budget_bytes >= 0

    return Reader("device", seeds.devices(), read, (SpecError,), folder(), (b"1e308", b"nan", b"inf"))


def _coreml() -> Reader:
    from microforge.errors import BundleError
    from microforge_runtimes.mil.interpreter import Interpreter
    from microforge_runtimes.mil.reader import read_program

    package = folder() / "network.mlpackage"
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    model.parent.mkdir(parents=True, exist_ok=True)
    items = {"a": {"path": "com.apple.CoreML/model.mlmodel"}}
    (package / "Manifest.json").write_text(json.dumps({"itemInfoEntries": items, "rootModelIdentifier": "a"}))

    def read(data: bytes) -> None:
        model.write_bytes(data)
        Interpreter(read_program(package))

    return Reader("coreml", seeds.programs(), read, (BundleError,), folder())


READERS: dict[str, Callable[[], Reader]] = {
    "manifest": _manifest, "tokenizer": _tokenizer, "config": _config, "safetensors": _safetensors, "image": _image,
    "mask": _mask, "size": _size, "memory": _memory, "archive": _archive, "captions": _captions, "parquet": _parquet,
    "shard": _shard, "marks": _marks, "device": _device, "coreml": _coreml,
}  # fmt: skip

#: Reader -> the optional package that it needs.
NEEDS = {"parquet": "pyarrow", "coreml": "coremltools"}


def missing_package(name: str) -> str | None:
    """The package that the reader ``name`` needs and that is not installed."""
    package = NEEDS.get(name)
    return package if package is not None and importlib.util.find_spec(package) is None else None
