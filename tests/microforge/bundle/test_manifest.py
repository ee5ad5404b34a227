"""The bundle format: what a manifest may say, hashes before every open, and outputs that are whole or absent."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.bundle.files import (
    Bundle,
    file_entry,
    load_bundle,
    manifest_id,
    parse_manifest,
    write_manifest,
)
from microforge.bundle.manifest import MANIFEST, Manifest, Size, schema_text
from microforge.bundle.targets import check_relative_path
from microforge.errors import BundleError, OutputError, OutputExistsError
from microforge.io.atomic import atomic_bytes, atomic_folder, check_output
from microforge.noise import NOISE_NAME
from microforge.spec import TASKS

SIZE = {"height": 64, "width": 96}
FILES = (
    "tokenizer.json",
    "onnx/t.onnx",
    "onnx/d.onnx",
    "onnx/v.onnx",
    "onnx/weights.bin",
    "onnx/extra.bin",
    "golden/run.safetensors",
)


def _tensors(**shapes: list[int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": shape, "dtype": "int64" if name == "ids" else "float32"}
        for name, shape in shapes.items()
    ]


def _values(entry: Any) -> dict[str, Any]:
    """A complete manifest as JSON values; ``entry(path)`` gives the file entries."""
    text = {"role": "text_encoder", "size": None, "inputs": _tensors(ids=[1, 8], mask=[1, 8])}
    denoiser = {"role": "denoiser", "size": SIZE, "inputs": _tensors(z=[1, 2, 2, 3], t=[1], text=[1, 8, 4])}
    decoder = {"role": "vae_decoder", "size": SIZE, "inputs": _tensors(latent=[1, 2, 2, 3])}
    return {
        "schema_version": 1,
        "model": {"name": "nano", "latent": [1, 2.5, None]},
        "tasks": ["generate"],
        "sizes": [{**SIZE, "latent_shape": [2, 2, 3]}],
        "sampler": {"timesteps": [1.0, 0.5, 0.0], "guidance": {"text": 3.5, "image": 1.5}, "prediction": "velocity"},
        "latent": {"channels": 2, "downsample": 32, "mean": [0.0, 0.1], "std": [1.0, 2.0]},
        "noise": NOISE_NAME,
        "tokenizer": {
            "file": entry("tokenizer.json"), "max_length": 8, "pad": 0, "bos": 1, "eos": 2,
            "task_prefixes": {"generate": 4},
        },
        "components": {
            "a": {**text, "outputs": _tensors(text=[1, 8, 4], pooled=[1, 4])},
            "b": {**denoiser, "outputs": _tensors(velocity=[1, 2, 2, 3])},
            "c": {**decoder, "outputs": _tensors(image=[1, 3, 64, 96])},
        },
        "targets": {
            "onnx": {
                "precision": "fp32",
                "files": {"a": entry("onnx/t.onnx"), "b": entry("onnx/d.onnx"), "c": entry("onnx/v.onnx")},
                "parts": {"c": [entry("onnx/extra.bin")]},
                "shared_files": [entry("onnx/weights.bin")],
                "parity": {"b": {"psnr_db": 90.0, "max_abs": 1e-5, "threshold_db": 60.0}},
                "image": {"max_abs_255": 1, "threshold": 2},
                "operators": {"MatMul": 3},
                "coverage": {"a": {"operators": 3, "delegated": 2, "delegates": 1, "outside": {"Gather": "no kernel"}}},
                "memory": {"a": {"weights": 9, "activations": 3, "peak": 12, "arena": 2}},
                "delegated_fraction": 1.0,
            }
        },
        "golden": {
            "components": {"b": entry("golden/run.safetensors")},
            "trajectories": [
                {"task": "generate", "size": SIZE, "prompt": "a red circle", "seed": 0, "file": entry("golden/run.safetensors")}
            ],
        },
        "provenance": {"checkpoint_sha256": "0" * 64, "versions": {"torch": "2"}, "created": "2026-01-01T00:00:00Z"},
    }  # fmt: skip


VALUES = _values(lambda path: {"path": path, "sha256": "a" * 64, "bytes": 3})


def _changed(path: str, value: Any) -> bytes:
    """The manifest with the value at a dotted path replaced, or removed when it is ``...``."""
    values: Any = copy.deepcopy(VALUES)
    *parents, last = path.split(".")
    place = values
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    if value is ...:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(values).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle on disk."""
    folder = tmp_path / "model.mfb"
    for path in FILES:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(f"contents of {path}".encode())
    write_manifest(folder, Manifest.model_validate(_values(lambda path: file_entry(folder, path))))
    return folder


def test_a_bundle_opens_and_hands_out_checked_files(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.id == manifest_id((folder / "manifest.json").read_bytes()) and len(bundle.id) == 12
    key, component = bundle.component("denoiser", Size(height=64, width=96))
    assert key == "b" and component.input("z") is not None and component.input("plan") is None
    assert bundle.component("text_encoder")[0] == "a"
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
    other = bundle.manifest.model_copy(update={"model": {"name": "other"}})
    assert write_manifest(tmp_path, other) != bundle.id


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("surprise", 1, "unknown key surprise"),
        ("targets.onnx.files.a.url", "http://x", "unknown key targets.onnx.files.a.url"),
        ("sampler", ..., "the key sampler is missing"),
        ("schema_version", 2, "schema_version 2, this version reads 1"),
        ("schema_version", True, "schema_version True"),
        ("schema_version", ..., "schema_version None"),
        ("noise", "mersenne", "noise"),
        ("tasks", [], "tasks"),
        ("tasks", ["edit"], "task_prefixes lacks the task 'edit'"),
        ("sizes.0.height", "64", "sizes.0.height"),
        ("sizes.0.height", 70, "does not fit the latent"),
        ("sizes.0.latent_shape", [2, 3, 2], "does not fit the latent"),
        ("sampler.timesteps", [1.0, 0.5, 0.5, 0.0], "fall strictly"),
        ("sampler.timesteps", [0.9, 0.0], "fall strictly"),
        ("sampler.prediction", "epsilon", "sampler.prediction"),
        ("latent.std", [1.0], "for 2 channels"),
        ("latent.std", [1.0, 0.0], "latent.std.1"),
        ("components.b.size", None, "only the text encoder has none"),
        ("components.b.size", {"height": 32, "width": 32}, "not in sizes"),
        ("components.b.role", "denoise", "components.b.role"),
        ("components.b.inputs.0.shape", [1, 2, 3, 2], "z has shape"),
        ("components.b.inputs.0.shape", [1, 2, 0, 2], "components.b.inputs.0.shape.2"),
        ("components.b.inputs.0.dtype", "float64", "components.b.inputs.0.dtype"),
        ("components.b.inputs.0.name", "x", "lacks the tensor 'z'"),
        ("components.b.inputs.2.name", "t", "names a tensor twice"),
        ("components.b.outputs", [], "lacks the tensor 'velocity'"),
        ("components.d", VALUES["components"]["b"], "two denoiser of size 64x96"),
        ("components.b", ..., "names a component 'b'"),
        ("targets.onnx.precision", "fp8", "targets.onnx.precision"),
        ("targets.tflite", {}, "targets.tflite"),
        ("targets.onnx.files.a.sha256", "A" * 64, "targets.onnx.files.a.sha256"),
        ("targets.onnx.files.a.bytes", -1, "targets.onnx.files.a.bytes"),
        ("targets.onnx.delegated_fraction", 1.5, "targets.onnx.delegated_fraction"),
        ("targets.onnx.coverage.a.delegated", 4, "4 of 3 operators cannot be delegated"),
        ("targets.onnx.coverage.z", VALUES["targets"]["onnx"]["coverage"]["a"], "names a component 'z'"),
        ("targets.onnx.parts.z", [], "targets.onnx.parts names a component 'z'"),
        ("targets.onnx.parts.c.0.path", "../extra.bin", "must be relative"),
        ("targets.onnx.memory.a.arena", -1, "targets.onnx.memory.a.arena"),
        ("golden.trajectories.0.size.width", 32, "not in sizes"),
        ("targets.onnx.files.a.path", "../t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "/etc/passwd", "must be relative"),
        ("targets.onnx.files.a.path", "onnx\\t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "C:/t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "onnx//t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "onnx/./t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "", "targets.onnx.files.a.path"),
        ("targets.onnx.files.a.path", "a\nb", "must be relative"),
    ],
)
def test_what_a_manifest_must_not_say_is_named_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(_changed(path, value), "m.mfb/manifest.json")
    assert message in str(caught.value) and str(caught.value).startswith("m.mfb/manifest.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_plan_tensors_come_together_or_not_at_all() -> None:
    inputs, outputs = VALUES["components"]["b"]["inputs"], VALUES["components"]["b"]["outputs"]
    plan, has_plan, next_plan = _tensors(plan=[1, 3, 4], has_plan=[1], next_plan=[1, 3, 4])
    whole = json.loads(_changed("components.b.inputs", [*inputs, plan, has_plan]))
    whole["components"]["b"]["outputs"] = [*outputs, next_plan]
    parse_manifest(json.dumps(whole).encode())
    for some in ([plan], [has_plan], [plan, has_plan]):
        with pytest.raises(BundleError, match="plan"):
            parse_manifest(_changed("components.b.inputs", [*inputs, *some]))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'"x"'],
)
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
    with pytest.raises(
        BundleError, match="no vae_encoder for size 64x96; it has: denoiser, text_encoder, vae_decoder"
    ):
        bundle.component("vae_encoder", bundle.size())
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
    assert tuple(schema["properties"]["tasks"]["items"]["enum"]) == TASKS


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
