"""``from_pretrained`` and ``push_to_hub`` against a stand-in for the Hugging Face hub on the loopback interface."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import microforge
from microforge.errors import HubError, MissingExtraError, SpecError
from microforge.io import hub
from microforge.pipeline import MicroForgePipeline

Files = dict[str, bytes]


class StandIn(ThreadingHTTPServer):
    """The few calls of the hub's interface that downloads and uploads of small files make."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.commits: dict[str, list[Files]] = {}  # owner/name -> its commits, oldest first
        self.downloads: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, name: str, revision: str) -> Files | None:
        """Of a commit, ``main``, or the tag ``v1`` of the first commit."""
        commits = self.commits.get(name) or [{}]
        revisions = {sha(files): files for files in commits} | {"main": commits[-1], "v1": commits[0]}
        return revisions.get(revision) if name in self.commits else None


def sha(files: Files) -> str:
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Answer(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *values: object) -> None:
        """Keep the terminal quiet."""

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(json.dumps(value).encode(), Content_Type="application/json")

    def _missing(self, code: str) -> None:
        self._send(b"{}", 404, X_Error_Code=code)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if match := re.match(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^?]+)", self.path):
            name, kind, revision = match.groups()
            if name not in self.server.commits:
                return self._missing("RepoNotFound")
            files = self.server.files(name, revision)
            if files is None:
                return self._missing("RevisionNotFound")
            if kind == "revision":
                return self._json({"id": name, "sha": sha(files), "siblings": []})
            return self._json(
                [{"type": "file", "path": path, "size": len(data), "oid": sha({path: data})} for path, data in files.items()]
            )  # fmt: skip
        match = re.match(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        assert match is not None, self.path
        name, revision, path = match.groups()
        files = self.server.files(name, revision)
        assert files is not None
        if self.command == "GET":
            self.server.downloads.append(path)
        return self._send(files[path], ETag=f'"{sha({path: files[path]})}"', X_Repo_Commit=sha(files))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request['organization']}/{request['name']}"
            self.server.commits.setdefault(name, [])
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        match = re.match(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        assert match is not None, self.path
        name, kind = match.groups()
        if kind == "preupload":
            paths = [item["path"] for item in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self._json({"files": modes})
        values = [line["value"] for line in map(json.loads, body.splitlines()) if line["key"] == "file"]
        files = {value["path"]: base64.b64decode(value["content"]) for value in values}
        older = self.server.commits[name][-1] if self.server.commits[name] else {}
        self.server.commits[name].append(older | files)
        commit = sha(self.server.commits[name][-1])
        return self._json({"commitUrl": f"{self.server.address}/{name}/commit/{commit}", "commitOid": commit})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    constants: Any = pytest.importorskip("huggingface_hub.constants")
    server = StandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.shutdown()
    server.server_close()


def of_folder(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_checkpoint_comes_back_from_the_hub_with_the_same_pixels(
    stand_in: StandIn, editing_checkpoint: Path
) -> None:
    with microforge.load(editing_checkpoint) as model:
        first = model.generate("a red circle", seed=3)
        address = model.push_to_hub("someone/mini", token="secret")
    assert address.startswith(f"{stand_in.address}/someone/mini/commit/")
    (files,) = stand_in.commits["someone/mini"]
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}
    card = files["README.md"].decode()
    assert card.startswith("---\n") and "pipeline_tag: text-to-image" in card and "someone/mini" in card
    with microforge.from_pretrained("someone/mini") as model:
        assert np.array_equal(model.generate("a red circle", seed=3).array, first.array)


def test_a_bundle_comes_back_from_the_hub_with_the_same_pixels(
    stand_in: StandIn, editing_bundle: Path
) -> None:
    with microforge.load(editing_bundle) as model:
        first = model.generate("a red circle", seed=3)
        model.push_to_hub("someone/mini", token="secret")
    assert set(of_folder(editing_bundle)) <= set(stand_in.commits["someone/mini"][0])
    with microforge.from_pretrained("someone/mini") as model:
        assert model.tasks == ("generate", "edit", "inpaint", "super-resolve", "vary")
        assert np.array_equal(model.generate("a red circle", seed=3).array, first.array)


def test_a_checkpoint_with_a_base_is_uploaded_whole(
    stand_in: StandIn, editing_checkpoint: Path, tmp_path: Path
) -> None:
    pipeline = MicroForgePipeline.from_pretrained(editing_checkpoint)
    pipeline.backbone.head.bias.data += 1.0
    pipeline.save_pretrained(editing_checkpoint.parent / "student", base=f"../{editing_checkpoint.name}")
    with microforge.load(editing_checkpoint.parent / "student") as model:
        first = model.generate("a star")
        model.push_to_hub("someone/student", token="secret")
    assert "base" not in json.loads(stand_in.commits["someone/student"][0]["config.json"])
    with microforge.from_pretrained("someone/student") as model:
        assert np.array_equal(model.generate("a star").array, first.array)


def test_a_revision_is_what_it_was(stand_in: StandIn, editing_checkpoint: Path) -> None:
    files = of_folder(editing_checkpoint)
    stand_in.commits["someone/mini"] = [files, {**files, "config.json": b"{}"}]
    pipeline = MicroForgePipeline.from_pretrained("someone/mini", revision="v1")
    assert pipeline.spec.name == "miniature"
    with pytest.raises(ValueError, match="not of a MicroForge checkpoint"):
        MicroForgePipeline.from_pretrained("someone/mini")


def test_only_files_of_models_are_downloaded_and_only_once(
    stand_in: StandIn, editing_checkpoint: Path
) -> None:
    files = of_folder(editing_checkpoint)
    strangers = ("pytorch_model.bin", "weights.ckpt", "model.pt", "data.pkl", "modeling.py", "tf_model.h5")
    stand_in.commits["someone/mini"] = [files | dict.fromkeys(strangers, b"payload")]
    first, second = hub.download("someone/mini"), hub.download("someone/mini")
    assert first == second and of_folder(first) == files
    assert sorted(stand_in.downloads) == sorted(files)


def test_only_files_of_models_are_uploaded(
    stand_in: StandIn, editing_checkpoint: Path, tmp_path: Path
) -> None:
    for name, data in (of_folder(editing_checkpoint) | {"optimizer.pt": b"", ".env": b"secret"}).items():
        (tmp_path / name).write_bytes(data)
    hub.upload(tmp_path, "someone/mini", token="secret")
    assert set(stand_in.commits["someone/mini"][0]) == set(of_folder(editing_checkpoint))


def test_a_model_card_of_the_user_is_kept(
    stand_in: StandIn, editing_checkpoint: Path, tmp_path: Path
) -> None:
    MicroForgePipeline.from_pretrained(editing_checkpoint).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("my card", "utf-8")
    with microforge.load(tmp_path / "model") as model:
        model.push_to_hub("someone/mini", token="secret")
    assert stand_in.commits["someone/mini"][0]["README.md"] == b"my card"


def test_what_the_hub_does_not_have_is_one_line(stand_in: StandIn) -> None:
    stand_in.commits["someone/other"] = [{"README.md": b"not a model"}]
    for name, revision, message in (
        ("someone/nothing", None, "cannot download someone/nothing: .*404"),
        ("someone/other", "v9", "cannot download someone/other: .*404"),
        ("someone/other", None, "someone/other is no MicroForge model"),
        ("../etc/passwd", None, "is no model of the hub; give it as owner/name"),
    ):
        with pytest.raises(HubError, match=message) as caught:
            microforge.from_pretrained(name, revision=revision)
        assert "\n" not in str(caught.value)


def test_a_revision_of_a_folder_is_refused(editing_checkpoint: Path) -> None:
    with pytest.raises(SpecError, match="revision 'v1' is for models of the hub"):
        MicroForgePipeline.from_pretrained(editing_checkpoint, revision="v1")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"microforge\[hub\]"):
        microforge.from_pretrained("someone/mini")
