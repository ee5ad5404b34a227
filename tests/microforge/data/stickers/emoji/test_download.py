"""``mf-data stickers`` downloads its packages with npm: here from a registry on this machine.

These tests start npm itself, once per package, which takes longer than the work of the other tests.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from microforge.data.stickers.catalogue import read_catalogue
from microforge.data.stickers.emoji.build import build_stickers
from microforge.data.stickers.emoji.packages import PACKAGES
from microforge.errors import DataError

pytest.importorskip("resvg_py")
if shutil.which("npm") is None:
    pytest.skip("npm is not installed", allow_module_level=True)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A registry with miniature packages that npm is configured to use: path -> content, which a test may change."""
    spec = importlib.util.spec_from_file_location("packages", Path(__file__).with_name("packages.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path / "archives"
    module.write_packages(folder, archives=True)
    contents: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = contents.get(urllib.parse.unquote(self.path))
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"{}")

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    for package in PACKAGES:
        name = f"{package.archive_prefix}1.2.3.tgz"
        data = (folder / name).read_bytes()
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        dist = {"tarball": f"{address}/{name}", "integrity": integrity}
        entry = {"name": package.npm, "version": "1.2.3", "dist": dist}
        listing = {"name": package.npm, "dist-tags": {"latest": "1.2.3"}, "versions": {"1.2.3": entry}}
        contents[f"/{package.npm}"], contents[f"/{name}"] = json.dumps(listing).encode(), data
    for key, value in (
        ("registry", address), ("cache", str(tmp_path / "npm")), ("fetch_retries", "0"), ("userconfig", str(tmp_path / "npmrc")),
        ("proxy", ""), ("https_proxy", ""), ("noproxy", "127.0.0.1"),
    ):  # fmt: skip
        monkeypatch.setenv(f"npm_config_{key}", value)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield contents
    server.shutdown()
    server.server_close()


def test_a_set_is_made_from_packages_that_npm_downloads(registry: dict[str, bytes], tmp_path: Path) -> None:
    result = build_stickers(tmp_path / "set", 32, None, console=Console(quiet=True))
    assert (result.pictures, result.subjects) == (8, 2)
    assert read_catalogue(result.folder)[0].names["en"] == ("red apple",)


def test_a_failed_or_damaged_download_is_one_line_and_leaves_nothing(
    registry: dict[str, bytes], tmp_path: Path
) -> None:
    first = PACKAGES[0]
    archive = f"/{first.archive_prefix}1.2.3.tgz"
    whole = registry[archive]
    registry[archive] = whole[:-20] + b"\0" * 20
    with pytest.raises(DataError, match=r"npm pack .* failed .*--packages FOLDER"):
        build_stickers(tmp_path / "set", 32, None, console=Console(quiet=True))
    del registry[f"/{first.npm}"]
    with pytest.raises(DataError, match=r"npm pack .* failed"):
        build_stickers(tmp_path / "set", 32, None, console=Console(quiet=True))
    assert not (tmp_path / "set").exists()
