"""The kind of a file that cannot be used, guessed from its first bytes for a clear message. No torch, no decoder."""

from __future__ import annotations

#: Bytes that ``file_kind`` looks at.
HEAD_BYTES = 512
#: (offset, signature, what the file is); the first that matches counts.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image"),
    (0, b"GIF8", "GIF image"),
    (0, b"BM", "BMP image"),
    (8, b"WEBP", "WebP image"),
    (0, b"II*\0", "TIFF image or camera raw file"),
    (0, b"MM\0*", "TIFF image or camera raw file"),
    (0, b"II+\0", "TIFF image"),
    (0, b"MM\0+", "TIFF image"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000 image"),
    (0, b"\xff\x0a", "JPEG XL image"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL image"),
    (0, b"8BPS", "Photoshop document"),
    (0, b"gimp xcf", "GIMP document"),
    (0, b"v/1\x01", "OpenEXR image"),
    (0, b"#?RADIANCE", "Radiance HDR image"),
    (0, b"\0\0\x01\0", "Windows icon"),
    (0, b"qoif", "QOI image"),
    (0, b"%PDF", "PDF document"),
    (0, b"version https://git-lfs.github.com/spec", "Git LFS pointer (run git lfs pull)"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"BZh", "bzip2 archive"),
    (0, b"\xfd7zXZ\0", "xz archive"),
    (0, b"7z\xbc\xaf", "7-Zip archive"),
    (257, b"ustar", "tar archive"),
    (0, b"\x80\x02", "Python pickle"),
    (0, b"\x80\x04", "Python pickle"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM video"),
    (8, b"AVI ", "AVI video"),
    (4, b"ET12", "ExecuTorch program"),
    (4, b"TFL3", "LiteRT model"),
    (0, b"\x7fELF", "program"),
    (0, b"MZ", "program"),
)
#: Brands of the ISO base media format (ISO/IEC 14496-12), which several images and most videos use.
_BRANDS: tuple[tuple[bytes, str], ...] = (
    (b"avif", "AVIF image"),
    (b"avis", "AVIF animation"),
    (b"heic", "HEIC image"),
    (b"heix", "HEIC image"),
    (b"hevc", "HEIC animation"),
    (b"mif1", "HEIF image"),
    (b"msf1", "HEIF animation"),
    (b"qt  ", "QuickTime video"),
)


def file_kind(head: bytes) -> str:
    """What a file is whose first bytes (``HEAD_BYTES`` or all) are ``head``, as a noun for a message.

    ``"empty file"`` and ``"unknown kind of file"`` are among the answers. It is a guess from signatures: it says
    nothing about whether the file is whole.
    """
    if not head:
        return "empty file"
    if head[4:8] == b"ftyp":
        return _iso_kind(head)
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            if kind == "PNG image" and head[12:16] == b"CgBI":
                return "PNG image in Apple's own form (CgBI)"
            return kind
    if not head.strip(b"\0"):
        return "file of zeros (an incomplete download?)"
    return _text_kind(head)


def with_article(kind: str) -> str:
    """``kind`` with its indefinite article: "an empty file", "a HEIC image"."""
    return f"{'an' if kind[0] in 'aeioAEIO' or kind.startswith(('unknown', 'MP4', 'SVG', 'XML', 'xz')) else 'a'} {kind}"


def _iso_kind(head: bytes) -> str:
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), 64), 4))]
    return next((kind for brand in brands for known, kind in _BRANDS if brand == known), "MP4 video")


def _text_kind(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16 text file"
    if b"\0" in head:
        return "unknown kind of file"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "web page (HTML), perhaps an error or login page that was saved as the file"
    if b"<svg" in start:
        return "SVG drawing"
    if start.startswith(b"<?xml"):
        return "XML file"
    if start.startswith((b"{", b"[")):
        return "JSON file"
    try:
        head[: len(head) - 3].decode("utf-8")  # the last character may be cut in two
    except UnicodeDecodeError:
        return "unknown kind of file"
    return "text file"
