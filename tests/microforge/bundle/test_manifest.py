"""The bundle format: what a manifest may say, hashes before every open, and outputs that are whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.bundle.entry import check_relative_path
from microforge.bundle.files import (
    Bundle,
    load_bundle,
    manifest_id,
    parse_manifest,
    write_manifest,
)
from microforge.bundle.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SCHEMA_VERSION,
    ModelEntry,
    Size,
    schema_text,
    task_for,
)
from microforge.errors import BundleError, OutputError, OutputExistsError, SpecError
from microforge.io.atomic import atomic_bytes, atomic_folder, check_output
from microforge.noise import NOISE_NAME
from microforge_benchmarks.conformance.manifest_cases import DAMAGED, REFUSED, WRONG_TYPES
from tests.microforge.bundle.manifests import FILES, changed, version2_values, write_bundle

VALUES = version2_values()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle on disk."""
    return write_bundle(tmp_path / "model.mfb")


def test_a_bundle_opens_and_hands_out_checked_files(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.id == manifest_id((folder / "manifest.json").read_bytes()) and len(bundle.id) == 12
    key, component = bundle.component("denoise", Size(height=64, width=96))
    assert key == "b" and component.input("x") is not None and component.input("plan") is None
    assert bundle.component("text")[0] == "a"
    assert bundle.size() == bundle.size((64, 96))
    assert bundle.file("onnx", key).read_text() == "contents of onnx/d.onnx"
    assert bundle.tokenizer_file() == folder / "tokenizer.json"
    assert [entry.path for entry in bundle.files()] == [
        "tokenizer.json", "golden/run.safetensors", "onnx/t.onnx", "onnx/d.onnx", "onnx/v.onnx", "onnx/extra.bin",
        "onnx/weights.bin",
    ]  # fmt: skip


def test_a_manifest_survives_its_file_and_the_id_changes_with_it(folder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(folder)
    assert write_manifest(tmp_path, bundle.manifest) == bundle.id
    other = bundle.manifest.model_copy(update={"model": ModelEntry(name="other")})
    assert write_manifest(tmp_path, other) != bundle.id


@pytest.mark.parametrize(("path", "value", "message"), [*REFUSED, *WRONG_TYPES])
def test_what_a_manifest_must_not_say_is_named_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(changed(VALUES, path, value), "m.mfb/manifest.json")
    assert message in str(caught.value) and str(caught.value).startswith("m.mfb/manifest.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_task_is_chosen_by_its_inputs_and_says_what_it_runs() -> None:
    manifest = parse_manifest(json.dumps(VALUES).encode())
    assert manifest.default_task == "generate" and manifest.steps == 2
    assert task_for(manifest.tasks, image=False, mask=False) == "generate"
    assert task_for(manifest.tasks, image=True, mask=True) == "fill"
    assert task_for(manifest.tasks, image=True, mask=False) is None, (
        "its only task with an image needs a mask"
    )
    assert [(stage.role, stage.kind) for stage in manifest.stages()] == [
        ("text", "prompt_encoder"), ("denoise", "network"), ("decode", "decoder"),
    ]  # fmt: skip
    assert [stage.role for stage in manifest.stages("fill")] == ["text", "encode", "denoise", "decode"]
    assert len(manifest.active_branches()) == 2


def test_a_component_that_serves_every_size_is_found_at_each() -> None:
    manifest = parse_manifest(json.dumps(VALUES).encode())
    size = Size(height=64, width=96)
    assert manifest.find("text") == manifest.find("text", size) == "a"
    assert manifest.find("denoise", size) == "b" and manifest.find("denoise") is None


def test_a_manifest_is_never_read_beyond_its_limit(folder: Path) -> None:
    with (folder / MANIFEST).open("ab") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 100)
    with pytest.raises(BundleError, match="has more than 16,777,216 bytes"):
        load_bundle(folder)


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_manifest_is_one_line(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json") as caught:
        parse_manifest(data)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(json.dumps(VALUES)) - 1))
def test_a_truncated_manifest_is_refused_at_any_length(length: int) -> None:
    with pytest.raises(BundleError):
        parse_manifest(json.dumps(VALUES).encode()[:length])


@given(st.text(st.sampled_from("a.b/\\:*\0 \n~é"), max_size=12))
def test_an_accepted_path_stays_inside_on_every_system(path: str) -> None:
    try:
        check_relative_path(path)
    except ValueError:
        return
    root = os.path.abspath("/bundle")
    assert os.path.normpath(os.path.join(root, path)) == os.path.join(root, path)
    assert "\\" not in path and ":" not in path and path.isprintable()


@pytest.mark.parametrize("path", FILES)
def test_a_changed_missing_or_truncated_file_is_never_handed_out(folder: Path, path: str) -> None:
    original = (folder / path).read_bytes()

    def open_all(bundle: Bundle) -> None:
        for entry in bundle.files():
            bundle.checked(entry)

    for damaged in (original[:-1], b"X" + original[1:]):
        bundle = load_bundle(folder)
        open_all(bundle)
        (folder / path).write_bytes(damaged)
        with pytest.raises(BundleError, match="build the bundle again"):
            open_all(bundle)
        (folder / path).write_bytes(original)
    (folder / path).unlink()
    with pytest.raises(BundleError, match="lacks its file"):
        open_all(load_bundle(folder))


def test_a_damaged_shared_file_stops_every_component(folder: Path) -> None:
    (folder / "onnx/weights.bin").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"weights\.bin has 5 bytes"):
        load_bundle(folder).file("onnx", "a")


def test_a_damaged_part_stops_its_own_component_only(folder: Path) -> None:
    (folder / "onnx/extra.bin").write_bytes(b"other")
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match=r"extra\.bin has 5 bytes"):
        bundle.file("onnx", "c")
    assert bundle.file("onnx", "a").name == "t.onnx"


def test_files_may_be_links_to_regular_files_as_in_download_caches(folder: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    bundle = load_bundle(folder)
    for entry in bundle.files():
        assert bundle.checked(entry).is_symlink()


def test_links_to_other_contents_or_to_no_regular_file_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    for target, message in ((tmp_path / "other", "the manifest says"), ("/dev/zero", "no regular file"),
                            (tmp_path, "no regular file"), (tmp_path / "gone", "lacks its file")):  # fmt: skip
        (folder / "onnx/weights.bin").unlink()
        (folder / "onnx/weights.bin").symlink_to(target)
        with pytest.raises(BundleError, match=message):
            load_bundle(folder).file("onnx", "a")


def test_linked_folders_are_refused_even_to_the_right_contents(folder: Path, tmp_path: Path) -> None:
    (folder / "onnx").rename(tmp_path / "elsewhere")
    (folder / "onnx").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"is a link; .*cp -rL"):
        load_bundle(folder).file("onnx", "a")


def test_what_is_no_bundle_is_said(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path, message in (
        ("nothing", "does not exist"),
        ("x" * 300, "does not exist"),
        ("file", "is no zip archive"),
        (".", "has no manifest.json"),
    ):
        with pytest.raises(BundleError, match=message):
            load_bundle(tmp_path / path)
    bundle = load_bundle(folder)
    with pytest.raises(BundleError, match="no upscale for size 64x96; it has: decode, denoise, encode, text"):
        bundle.component("upscale", bundle.size())
    with pytest.raises(BundleError, match="no file for component 'z'"):
        bundle.file("onnx", "z")


def test_the_checked_in_schema_is_current() -> None:
    path = Path(__file__).parents[3] / "docs" / "bundle.schema.json"
    assert path.read_text("utf-8") == schema_text(), (
        "run: python -m microforge.bundle > docs/bundle.schema.json"
    )


def test_literals_of_the_schema_are_the_constants_of_their_modules() -> None:
    schema = json.loads(schema_text())
    assert schema["properties"]["noise"]["const"] == NOISE_NAME
    assert schema["properties"]["schema_version"]["const"] == SCHEMA_VERSION


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model.mfb"
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(out, marker=MANIFEST) as work:
        (work / "manifest.json").write_text("{}")
        raise RuntimeError("half way")
    assert list((tmp_path / "deep").iterdir()) == []
    with atomic_folder(out, marker=MANIFEST) as work:
        (work / "manifest.json").write_text("new")
        assert not out.exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.mfb"]
    assert (out / "manifest.json").read_text() == "new"


def test_the_old_folder_stays_until_the_new_one_is_complete(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(OutputExistsError, match="--force"), atomic_folder(folder, marker=MANIFEST):
        pytest.fail("must not start")
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder, force=True, marker=MANIFEST):
        raise KeyboardInterrupt
    assert (folder / "manifest.json").read_bytes() == before
    with atomic_folder(folder, force=True, marker=MANIFEST) as work:
        (work / "manifest.json").write_text("new")
        assert (folder / "manifest.json").read_bytes() == before
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["model.mfb"]


def test_force_never_replaces_what_is_not_of_the_same_kind(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    for name, message in (("photos", "holds other files and no manifest.json"), ("photos/me.jpg", "not a folder"), ("link", "not a folder")):  # fmt: skip
        with (
            pytest.raises(OutputError, match=message),
            atomic_folder(tmp_path / name, force=True, marker=MANIFEST),
        ):
            pytest.fail("must not start")
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", force=True, marker=MANIFEST) as work:
        (work / "config.json").write_text("{}")
    with atomic_folder(tmp_path / "empty", force=True, marker="config.json"):
        pass
    assert (folder / "manifest.json").exists() and (tmp_path / "photos" / "me.jpg").exists()


def test_a_file_is_written_whole_and_not_over_another(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "image.png"
    atomic_bytes(out, b"one")
    with pytest.raises(OutputExistsError, match="already exists"):
        atomic_bytes(out, b"two")
    assert out.read_bytes() == b"one"
    atomic_bytes(out, b"two", force=True)
    assert out.read_bytes() == b"two" and [path.name for path in out.parent.iterdir()] == ["image.png"]
    with pytest.raises(OutputError, match="is a folder"):
        atomic_bytes(tmp_path / "deep", b"x", force=True)
    for bad in (out / "below.png", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        with pytest.raises(OutputError, match="cannot write"):
            atomic_bytes(bad, b"x")


def test_check_output_writes_nothing(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_with_a_byte_order_mark_is_read_and_utf_16_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    plain = load_bundle(folder)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_bundle(folder).manifest == plain.manifest
    path.write_bytes(path.read_bytes().decode("utf-8-sig").encode("utf-16"))
    with pytest.raises(BundleError, match="is not JSON"):
        load_bundle(folder)


@pytest.mark.parametrize("size", [None, "64x96", (64, 96), [64, 96]])
def test_a_bundles_size_is_chosen_in_every_usual_form(folder: Path, size: Any) -> None:
    assert str(load_bundle(folder).size(size).size) == "64x96"


@pytest.mark.parametrize(
    ("size", "error"), [("256", BundleError), (256, BundleError), ("ab", SpecError), (1.5, SpecError)]
)
def test_a_size_that_a_bundle_lacks_is_named_in_numbers(
    folder: Path, size: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"has no size 256x256; it has: 64x96|is not understood"):
        load_bundle(folder).size(size)
