"""Downloads from a local server that breaks off, lies about lengths, ignores ranges and flips bytes."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import microforge
from microforge.bundle.files import load_bundle
from microforge.bundle.manifest import MANIFEST
from microforge.bundle.signature import SIGNATURE, sign
from microforge.errors import BundleError, DownloadError, OutputExistsError, SignatureError
from microforge_runtimes.download import Attempts
from microforge_runtimes.fetch import FetchProgress, fetch

QUICK = Attempts(count=3, pause=0.0, timeout=5.0)


@dataclass
class Faults:
    """What the server does wrong, and what it was asked."""

    break_after: int | None = None  # bytes of a body, after which the connection closes; once per request
    breaks: int = 0  # how often
    ignore_ranges: bool = False
    wrong_range: bool = False
    flip: str = ""  # path in which the first byte is flipped
    extra: str = ""  # path that is longer than it should be, without a length
    status: dict[str, int] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        return [path for path, _ in self.requests]


@dataclass
class Server:
    url: str
    folder: Path
    faults: Faults


@pytest.fixture
def server(editing_bundle: Path, tmp_path: Path) -> Iterator[Server]:
    folder, faults = tmp_path / "site", Faults()
    shutil.copytree(editing_bundle, folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.removeprefix("/b.mfb/")
            faults.requests.append((path, self.headers.get("Range")))
            if path in faults.status:
                self.send_error(faults.status[path])
                return
            file = folder / path
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            if path == faults.flip:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.answer(path, data)

        def answer(self, path: str, data: bytes) -> None:
            asked = self.headers.get("Range")
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and not faults.ignore_ranges else 0
            self.send_response(206 if start else 200)
            if start:
                shown = start + 7 if faults.wrong_range else start
                self.send_header("Content-Range", f"bytes {shown}-{len(data) - 1}/{len(data)}")
            if path == faults.extra:
                data += b"more"
            else:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            if (
                path != MANIFEST
                and faults.break_after is not None
                and faults.breaks > 0
                and len(body) > faults.break_after
            ):
                faults.breaks -= 1
                body = body[: faults.break_after]
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *words: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield Server(f"http://127.0.0.1:{httpd.server_port}/b.mfb", folder, faults)
        httpd.shutdown()


def same(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def largest(folder: Path) -> str:
    entries = load_bundle(folder).files()
    return max(entries, key=lambda entry: entry.bytes).path


def test_fetch_brings_every_file_and_leaves_nothing_beside_it(server: Server, tmp_path: Path) -> None:
    progress: list[FetchProgress] = []
    out = fetch(server.url, tmp_path / "got.mfb", callback=progress.append, attempts=QUICK)
    bundle = load_bundle(out)
    for entry in bundle.files():
        bundle.checked(entry)
    assert same(out, server.folder) and leftovers(tmp_path) == []
    assert progress[-1].done == progress[-1].total > 0


def test_fetch_goes_on_where_the_connection_broke(server: Server, tmp_path: Path) -> None:
    server.faults.break_after, server.faults.breaks = 100, 2
    out = fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    assert same(out, server.folder)
    assert any(asked == "bytes=100-" for _, asked in server.faults.requests)


def test_fetch_called_again_resumes_an_interrupted_download(server: Server, tmp_path: Path) -> None:
    file = largest(server.folder)
    server.faults.status[file] = 404
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    assert not (tmp_path / "got.mfb").exists()
    server.faults.status.clear()
    server.faults.requests.clear()
    fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    assert server.faults.fetched().count(MANIFEST) == 1 and file in server.faults.fetched()
    assert len(server.faults.fetched()) < len(load_bundle(server.folder).files()) + 1


def test_fetch_starts_a_file_again_when_the_server_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.faults.break_after, server.faults.breaks, server.faults.ignore_ranges = 100, 1, True
    assert same(fetch(server.url, tmp_path / "got.mfb", attempts=QUICK), server.folder)


def test_fetch_refuses_a_range_that_starts_elsewhere(server: Server, tmp_path: Path) -> None:
    server.faults.break_after, server.faults.breaks, server.faults.wrong_range = 100, 1, True
    with pytest.raises(DownloadError, match="did not arrive"):
        fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)


def test_fetch_refuses_a_flipped_byte_and_keeps_the_old_version(server: Server, tmp_path: Path) -> None:
    out = fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    before = (out / MANIFEST).read_bytes()
    file = largest(server.folder)
    (out / file).unlink()
    server.faults.flip = file
    with pytest.raises(DownloadError, match="SHA-256"):
        fetch(server.url, out, force=True, attempts=QUICK)
    assert (out / MANIFEST).read_bytes() == before


def test_fetch_refuses_a_body_longer_than_the_manifest_says(server: Server, tmp_path: Path) -> None:
    server.faults.extra = largest(server.folder)
    with pytest.raises(DownloadError, match="longer than"):
        fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)


def test_fetch_mends_a_damaged_beginning(server: Server, tmp_path: Path) -> None:
    entry = max(load_bundle(server.folder).files(), key=lambda item: item.bytes)
    parts = tmp_path / ".got.mfb.parts"
    parts.mkdir()
    (parts / f"{entry.sha256}.partial").write_bytes(b"x" * 10)
    assert same(fetch(server.url, tmp_path / "got.mfb", attempts=QUICK), server.folder)


def test_fetch_of_a_new_version_asks_only_for_what_changed(server: Server, tmp_path: Path) -> None:
    out = fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    manifest = (server.folder / MANIFEST).read_bytes()
    (server.folder / MANIFEST).write_bytes(manifest + b"\n")
    with pytest.raises(OutputExistsError, match="--force"):
        fetch(server.url, out, attempts=QUICK)
    server.faults.requests.clear()
    fetch(server.url, out, force=True, attempts=QUICK)
    assert server.faults.fetched() == [MANIFEST]
    assert (out / MANIFEST).read_bytes() == manifest + b"\n" and same(server.folder, out)


def test_fetch_takes_only_what_the_key_signed(server: Server, tmp_path: Path) -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    with pytest.raises(DownloadError, match="404"):
        fetch(server.url, tmp_path / "got.mfb", key=key.public_key(), attempts=QUICK)
    manifest = (server.folder / MANIFEST).read_bytes()
    (server.folder / SIGNATURE).write_bytes(sign(manifest, key))
    with pytest.raises(SignatureError, match="another key"):
        fetch(server.url, tmp_path / "got.mfb", key=other.public_key(), attempts=QUICK)
    out = fetch(server.url, tmp_path / "got.mfb", key=key.public_key(), attempts=QUICK)
    assert (out / SIGNATURE).is_file() and same(out, server.folder)


def test_fetch_of_the_package_reads_the_key_from_its_file(server: Server, tmp_path: Path) -> None:
    key, file = Ed25519PrivateKey.generate(), tmp_path / "public.pem"
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (server.folder / SIGNATURE).write_bytes(sign((server.folder / MANIFEST).read_bytes(), key))
    seen: list[int] = []
    out = microforge.fetch(
        server.url, tmp_path / "got.mfb", key=file, callback=lambda progress: seen.append(progress.done)
    )
    assert same(out, server.folder) and seen == sorted(seen) and len(seen) > 1
    assert microforge.load(out, key=file).path == out


def test_fetch_refuses_a_damaged_manifest_before_any_file(server: Server, tmp_path: Path) -> None:
    (server.folder / MANIFEST).write_bytes(b"{")
    with pytest.raises(BundleError, match="not JSON"):
        fetch(server.url, tmp_path / "got.mfb", attempts=QUICK)
    assert server.faults.fetched() == [MANIFEST] and list(tmp_path.iterdir()) == [server.folder]


@pytest.mark.parametrize("url", ["ftp://host/b.mfb", "file:///etc/passwd", "host/b.mfb", "http://"])
def test_fetch_refuses_other_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="https://host"):
        fetch(url, tmp_path / "got.mfb", attempts=QUICK)
