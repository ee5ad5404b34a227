"""``microforge.export``: a bundle from whatever names a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

import microforge
from microforge.bundle.files import load_bundle
from microforge.checkpoint import read_checkpoint
from microforge.errors import OutputExistsError, SpecError
from microforge_export.build import builder
from microforge_export.recipes.build_recipe import Recipe


def test_export_writes_a_bundle_with_all_tasks_of_the_checkpoint(editing_bundle: Path) -> None:
    manifest = load_bundle(editing_bundle).manifest
    assert editing_bundle.is_absolute() and set(manifest.targets) == {"onnx"}
    assert set(manifest.tasks) == {"generate", "edit", "inpaint", "super-resolve", "vary"}


def test_export_reads_a_loaded_checkpoint_and_takes_sizes_in_every_form(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(builder, "build", lambda *call: calls.append(call))
    with microforge.load(checkpoint) as model:
        out = microforge.export(model, tmp_path / "two.mfb", targets="onnx,coreml", size=[64, (32, 64), "96"])
    recipe, read, path, force, _ = calls[0]
    assert isinstance(recipe, Recipe) and callable(read)
    assert [target.name for target in recipe.targets] == ["onnx", "coreml"]
    assert recipe.sizes == ("64", "32x64", "96") and (path, force) == (out, False)
    assert read().checkpoint_sha256 == read_checkpoint(checkpoint).sha256


def test_export_refuses_a_bundle_and_what_is_there_before_it_works(
    editing_bundle: Path, tmp_path: Path
) -> None:
    with (
        microforge.load(editing_bundle) as model,
        pytest.raises(SpecError, match="is a bundle already"),
    ):
        microforge.export(model, tmp_path / "again.mfb")
    with pytest.raises(OutputExistsError):
        microforge.export(None, editing_bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["tensorrt"]}, "tensorrt"),
        ({"precision": "int3"}, "int3"),
        ({"tasks": ["draw"]}, "draw"),
        ({"size": 100}, "multiple of 32"),
    ],
)
def test_export_refuses_options_by_name(
    checkpoint: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        microforge.export(checkpoint, tmp_path / "out.mfb", progress=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out.mfb").exists()
