"""Valid and nearly valid inputs of every format, made here; and tokens that its files consist of."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.microforge.bundle.manifests import version1_values, version2_values, write_bundle
from tests.microforge.io import images as image_files

JSON_WORDS = (
    b"null",
    b"true",
    b"-1",
    b"1e308",
    b"NaN",
    b"1e999",
    b"[[[[",
    b"{}",
    b"[]",
    b'"\\ud800"',
    b"../",
    b"9" * 30,
)
TOKENIZER_WORDS = (
    *JSON_WORDS, b'"Replace"', b'"Prepend"', b'"Precompiled"', b'"Split"', b'"Regex"', b'"Unigram"', b'"WordPiece"', b'"Fixed"',
    b'"truncation"', b'"padding"', b'"Metaspace"', b'"TemplateProcessing"', b'"dropout"', b'"pattern"', b'"content"', b"(a+)+$",
)  # fmt: skip
WEIGHT_WORDS = (
    *JSON_WORDS,
    b'"F32"',
    b'"I64"',
    b'"F8_E4M3"',
    b'"BOOL"',
    b'"C64"',
    b"data_offsets",
    b"shape",
    b"__metadata__",
)
IMAGE_WORDS = (
    b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"iTXt", b"zTXt", b"acTL", b"fdAT", b"\xff\xd8\xff", b"\xff\xc0", b"\xff\xc2",
    b"\xff\xda", b"\xff\xd9", b"\xff\xe1", b"Exif\0\0", b"ICC_PROFILE\0", b"VP8X", b"VP8L", b"ANMF", b"GIF89a", b"NETSCAPE2.0", b"MPF\0",
)  # fmt: skip
ARCHIVE_WORDS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"\x01\0\x10\0",
    b"../",
    b"\xff" * 8,
)
TAR_WORDS = (
    b"ustar\x0000",
    b"ustar  \0",
    b"././@LongLink",
    b"path=",
    b"size=",
    b"GNU.sparse.map=",
    b"0\0",
    b"5\0",
    b"x\0",
    b"S\0",
)
MARK_WORDS = (
    *IMAGE_WORDS,
    b"<!DOCTYPE",
    b"<!ENTITY",
    b"rdf:li",
    b"microforge:settings",
    b"<?xpacket",
    b"&quot;",
)


@cache
def manifests() -> tuple[bytes, ...]:
    whole = tuple(json.dumps(values).encode() for values in (version1_values(), version2_values()))
    return (
        *whole,
        b"\xef\xbb\xbf" + whole[1],
        whole[1].decode().encode("utf-16"),
        b"[" * 3000,
        b'{"schema_version": 2}',
    )


def tokenizer_entry() -> dict[str, Any]:
    return {
        "file": {"path": "tokenizer.json", "sha256": "0" * 64, "bytes": 0}, "length": 24, "prefix": {"generate": [1, 4]},
        "suffix": [2], "pad": 0,
    }  # fmt: skip


@cache
def tokenizers() -> tuple[bytes, ...]:
    from microforge.tokenizer import PromptTokenizer, train_tokenizer

    plain = json.loads(PromptTokenizer(train_tokenizer(["a red circle", "a blue square"], 320)).to_json())
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"padding": {"strategy": {"Fixed": 50_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}},
        {"truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 10, "direction": "Right"}},
        {"pre_tokenizer": split},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}},
        {"normalizer": {"type": "Sequence", "normalizers": [replace] * 12}},
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "aa"}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA/////////w=="}},
        {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0], ["red", -2.0]], "byte_fallback": False}},
        {"model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                   "vocab": {"[UNK]": 0, "a": 1, "red": 2}}},
        {"model": {**plain["model"], "vocab": {}, "merges": []}},
    )  # fmt: skip
    return tuple(json.dumps({**plain, **change}).encode() for change in changes)


@cache
def configs() -> tuple[bytes, ...]:
    from microforge.spec import preset, to_dict

    values = {"format": 2, "stages": ["vae"], "model": to_dict(preset("nano"))}
    text = json.dumps(values)
    variants = [
        text, text.replace('"head_dim": 64', '"head_dim": 0'), text.replace('"depth": 4', '"depth": 1000000000'),
        text.replace('"max_decay": 0.5', '"max_decay": 1e999'), text.replace('"stages"', '"base": "/etc", "stages"'),
    ]  # fmt: skip
    return (
        *(variant.encode() for variant in variants),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
    )


@cache
def weights() -> tuple[bytes, ...]:
    import torch
    from safetensors.torch import save

    kinds = [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float64,
        torch.int8,
        torch.bool,
    ]
    kinds += [torch.float8_e4m3fn, torch.float8_e5m2, torch.int64, torch.uint16]
    whole = save({f"vae.{index}": torch.ones(2, 3).to(kind) for index, kind in enumerate(kinds)})
    header = b'{"a":{"dtype":"F32","shape":[9223372036854775807,0],"data_offsets":[0,0]}}'
    deep = b'{"a":' + b"[" * 4000
    return (
        whole, save({}), save({"a": torch.ones(2, dtype=torch.complex64)}), save({"vae.a": torch.full((4,), float("nan"))}), struct.pack("<Q", len(header)) + header,
        struct.pack("<Q", 1 << 62) + b"{", struct.pack("<Q", len(deep)) + deep, bytes(64),
    )  # fmt: skip


@cache
def images() -> tuple[bytes, ...]:
    picture, encoded = image_files.base_picture().resize((20, 14)), image_files.encoded
    alpha = picture.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize((20, 14)))
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = image_files.matrix_profile(*image_files.P3)
    deep = Image.fromarray(np.arange(280, dtype=np.uint16).reshape(14, 20) * 200)
    bomb = bytearray(encoded(picture, "JPEG", progressive=True))
    at = bomb.find(b"\xff\xc2")
    bomb[at + 5 : at + 9] = struct.pack(">HH", 5000, 5000)
    return (
        encoded(picture), encoded(alpha, exif=exif), encoded(picture.convert("P")), encoded(deep), encoded(picture, icc_profile=profile),
        encoded(picture.convert("P"), transparency=b"\0\x80\xff"), encoded(picture.convert("1")), encoded(alpha.convert("LA")),
        encoded(picture, "JPEG", exif=exif), encoded(picture, "JPEG", progressive=True), encoded(picture.convert("CMYK"), "JPEG"),
        encoded(picture, "JPEG", icc_profile=profile)[:-2], encoded(picture, "GIF"), encoded(alpha, "WEBP", lossless=True),
        encoded(picture, "WEBP", exif=exif), encoded(picture, "BMP"), encoded(picture.convert("P"), "BMP"),
        encoded(picture, "PNG", save_all=True, append_images=[picture.rotate(9)]), bytes(bomb), b"", b"II*\0", b"<svg/>",
        encoded(alpha, "WEBP", save_all=True, append_images=[alpha.rotate(9)]), encoded(picture, "JPEG", quality=5)[:-40],
        image_files.jpeg_with_exif(picture, b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\x08"),
        image_files.png_with(picture, image_files.chunk(b"eXIf", b"none"), image_files.chunk(b"tEXt", b"k\0v", 0)),
    )  # fmt: skip


@cache
def masks() -> tuple[bytes, ...]:
    mask = Image.new("L", (12, 8))
    mask.paste(255, (2, 2, 6, 6))
    encoded = image_files.encoded
    labels = np.asarray(mask) // 255
    brush = Image.new("RGBA", (12, 8))
    brush.paste((255, 255, 255, 255), (1, 1, 5, 5))
    return (
        encoded(mask), encoded(mask.convert("1")), encoded(Image.fromarray(labels)), encoded(Image.fromarray(labels.astype(np.uint16))),
        encoded(brush), encoded(mask.convert("P")), encoded(mask, "JPEG", quality=60), encoded(mask.convert("RGB"), "BMP"),
        encoded(mask, "GIF"), encoded(mask.convert("RGB"), "WEBP"), encoded(Image.new("L", (12, 8))), encoded(mask.resize((6, 4))),
    )  # fmt: skip


@cache
def archives() -> tuple[bytes, ...]:
    from microforge.bundle.pack import pack_bundle

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        pack_bundle(write_bundle(place / "model.mfb"), place / "model.mfb.zip")
        whole = (place / "model.mfb.zip").read_bytes()
    far = bytearray(whole)
    entry = far.find(b"PK\x01\x02")
    far[entry + 42 : entry + 46] = b"\xff\xff\xff\xfe"  # offset of the header
    return (
        whole,
        bytes(far),
        whole[:-10],
        whole + b"tail",
        _zip64_offset(),
        _small_zip(zipfile.ZIP_DEFLATED),
        _small_zip(zipfile.ZIP_STORED),
    )


def _small_zip(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("manifest.json", b"{}" + b" " * 400)
        archive.writestr("folder/", b"")
    return stream.getvalue()


def _zip64_offset() -> bytes:
    """An archive whose one member has its header at a 64-bit offset that no file has."""
    name, extra = b"manifest.json", struct.pack("<HHQ", 1, 8, 1 << 63)
    entry = struct.pack(
        "<4s6H3L5H2L",
        b"PK\x01\x02",
        45,
        45,
        0,
        0,
        0,
        0x21,
        0,
        2,
        2,
        len(name),
        len(extra),
        0,
        0,
        0,
        0,
        0xFFFFFFFF,
    )
    directory = entry + name + extra
    return directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0)


@cache
def captions() -> tuple[bytes, ...]:
    rows = [
        {"file_name": "a.png", "text": "a red circle"},
        {"file_name": "b.png", "caption": ["x", "y"]},
        {"filename": 1},
    ]
    return (
        b"a red circle\nall red\r\n", b"\xef\xbb\xbfcaf\xc3\xa9", "a red".encode("utf-16-le"), "a red".encode("utf-16"), b"\xe9",
        b'{"text": "a"}', b'{"caption": ["a", null]}', "\n".join(map(json.dumps, rows)).encode(), b"[" * 3000, b'{"text": ' + b"9" * 5000 + b"}",
        b'file_name,text,text\na.png,"a ""red"" circle",b\n,,\nc.png\nd.png,e,f,g,h\n', b"file_name;text\r\na.png;x\r\n", b'file_name,text\n"',
    )  # fmt: skip


@cache
def parquets() -> tuple[bytes, ...]:
    import pyarrow
    from pyarrow import parquet

    tables = [
        {"file_name": ["a.png", "b.png"], "text": ["a circle", None]},
        {
            "image": [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": None}],
            "caption": ["one", "two"],
        },
        {"file_name": ["a.png"] * 500, "text": [["x", "y"]] * 500},
    ]
    results = []
    for table in tables:
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(table), stream)
        results.append(stream.getvalue())
    return (*results, b"PAR1 and nothing else", b"PAR1\0\0\0\0PAR1")


@cache
def shards() -> tuple[bytes, ...]:
    png = image_files.encoded(Image.new("RGB", (2, 2), "red"))
    members = {
        "a.png": png,
        "a.txt": b"a red one\n",
        "d/b.PNG": png,
        "d/b.json": b'{"caption": "x"}',
        "lone.txt": b"text",
    }
    members |= {
        "00.image.jpg": b"J",
        "00.caption.txt": b"fields",
        "long" * 40 + ".jpg": b"W",
        "long" * 40 + ".txt": b"w",
    }
    results = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as shard:
            for name, data in members.items():
                entry = tarfile.TarInfo(name[:99] if kind == tarfile.USTAR_FORMAT else name)
                entry.size = len(data)
                shard.addfile(entry, io.BytesIO(data))
            link = tarfile.TarInfo("link.jpg")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            shard.addfile(link)
        results.append(stream.getvalue())
    return (*results, results[0][:1500], b"\x1f\x8b" + bytes(600), b"")


@cache
def marked_images() -> tuple[bytes, ...]:
    from microforge_runtimes.marks.image_encoding import encode_image
    from microforge_runtimes.marks.settings import Settings

    pixels = np.zeros((4, 4, 3), np.uint8)
    settings = Settings(
        task="generate", prompt="a <b> é", seed=1, steps=4, height=64, width=64, bundle="x", target="onnx"
    )
    kinds = ("PNG", "JPEG", "WEBP")
    whole = [encode_image(pixels, kind, "trainedAlgorithmicMedia", settings) for kind in kinds]  # type: ignore[arg-type]
    nested = image_files.png_with(
        Image.new("RGB", (2, 2)), image_files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<a>" * 5000)
    )
    return (*whole, nested, b"")


@cache
def devices() -> tuple[bytes, ...]:
    text = (
        'name = "phone"\nram_bytes = 3221225472\napp_share = 0.33\ncores = 4\nbandwidth_gb_s = 6.0\n'
        "fp32_gflop_s = 32.0\nint8_gop_s = 128.0\n"
    )
    return (
        text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.replace("6.0", "inf").encode(),
        text.replace("3221225472", "9" * 400).encode(), text.replace("0.33", "nan").encode(), b"a = " + b"[" * 3000, b"a." * 3000 + b"b = 1",
    )  # fmt: skip


@cache
def programs() -> tuple[bytes, ...]:
    from tests.microforge_runtimes.mil.test_reader import Writer

    with tempfile.TemporaryDirectory() as name:
        writer = Writer(Path(name))
        writer.input("x", "fp32", 1, 2)
        writer.const("shape", "int32", (2,), "ints", [2, 1])
        writer.const("one", "fp32", (), "floats", [1.0])
        writer.op("reshape", ("y", "fp32", (2, 1)), x="x", shape="shape")
        writer.op("add", ("z", "fp32", (2, 1)), x="y", y="one")
        model = writer.save("z") / "Data/com.apple.CoreML/model.mlmodel"
        return (model.read_bytes(), b"")
