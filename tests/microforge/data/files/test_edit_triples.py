"""A user's folder of edits: what can be used is, what cannot is skipped with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microforge.data.files.edit_triples import EditImages, FolderTriples, TripleFiles, _read_row, list_triples
from microforge.data.files.names import NameIndex
from microforge.errors import DataError


def _folder(root: Path, count: int = 3) -> Path:
    """``count`` triples: a grey source, and a target brighter by its number."""
    rows = []
    for index in range(count):
        for kind, level in (("before", 40 + index), ("after", 140 + index)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70, 70), (level,) * 3).save(root / kind / f"{index}.png")
        rows.append({
            "source": f"before/{index}.png", "instruction": f"brighter {index}", "target": f"after/{index}.png",
        })  # fmt: skip
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return root


def _write(root: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    with (root / "metadata.jsonl").open("a", encoding="utf-8") as stream:
        stream.write("".join(line + "\n" for line in lines))


def test_folder_triples_keep_source_instruction_and_target_together(tmp_path: Path) -> None:
    source = FolderTriples(_folder(tmp_path))
    batch = source.triples("edit", 0, 0, 12, range(12), (64, 64), "cpu")
    assert batch.sources.shape == batch.targets.shape == (12, 3, 64, 64)
    for before, text, after in zip(batch.sources, batch.texts, batch.targets, strict=True):
        index = int(str(text).removeprefix("brighter "))
        assert torch.allclose(before, torch.tensor((40 + index) / 255)), "the source of this instruction"
        assert torch.allclose(after, torch.tensor((140 + index) / 255)), "and its target"
    assert len(set(batch.texts)) == 3
    part = source.triples("edit", 0, 0, 12, [2, 7], (64, 64), "cpu")
    assert torch.equal(part.targets, batch.targets[[2, 7]]) and part.texts == (batch.texts[2], batch.texts[7])


def test_folder_triples_use_targets_and_the_empty_prompt_for_the_other_tasks(tmp_path: Path) -> None:
    source = FolderTriples(_folder(tmp_path))
    inpainting = source.triples("inpaint", 0, 0, 4, range(4), (64, 96), "cpu")
    assert inpainting.masks is not None and inpainting.masks.shape == (4, 1, 64, 96)
    large = source.triples("super-resolve", 0, 0, 4, range(4), (64, 96), "cpu")
    assert inpainting.texts == large.texts == (None,) * 4 and len(large.factors) == 4
    assert float(inpainting.targets.min()) > 0.5, "targets, not sources"


def test_list_triples_takes_the_imagefolder_column_names_and_several_instructions(tmp_path: Path) -> None:
    _folder(tmp_path, 1)
    _write(tmp_path, {
        "source_file_name": "before/0.png", "text": ["lighter", "more light"], "target_file_name": "after/0.png",
    })  # fmt: skip
    files, skipped = list_triples(tmp_path)
    assert files[1].instructions == ("lighter", "more light") and not skipped


def test_list_triples_skips_unusable_lines_with_a_reason(tmp_path: Path) -> None:
    _folder(tmp_path, 1)
    good = {"source": "before/0.png", "instruction": "x", "target": "after/0.png"}
    _write(
        tmp_path, "{", {**good, "source": "gone.png"}, {**good, "target": "../0.png"}, {**good, "instruction": 3},
        {"instruction": "x", "target": "after/0.png"}, {**good, "target": "metadata.jsonl"},
        {"source": "before/0.png", "target": "after/0.png"},
    )  # fmt: skip
    files, skipped = list_triples(tmp_path)
    assert len(files) == 1
    assert [(item.name, item.reason) for item in skipped] == [
        ("metadata.jsonl line 2", "not JSON"),
        ("metadata.jsonl line 3 (gone.png)", "no such image"),
        ("metadata.jsonl line 4 (../0.png)", "outside the folder"),
        ("metadata.jsonl line 5", "caption is not a string"),
        ("metadata.jsonl line 6", 'no "source"'),
        (
            "metadata.jsonl line 7 (metadata.jsonl)",
            "not an image; allowed: .jpg, .jpeg, .png, .webp, .bmp, .gif, .jfif, .jpe",
        ),
        ("metadata.jsonl line 8", 'no "instruction" or "text"'),
    ]


def test_folder_triples_skip_a_damaged_image(tmp_path: Path) -> None:
    (_folder(tmp_path, 2) / "after" / "0.png").write_bytes(b"no image")
    source = FolderTriples(tmp_path)
    batch = source.triples("edit", 0, 0, 6, range(6), (64, 64), "cpu")
    assert set(batch.texts) == {"brighter 1"}
    assert [item.name for item in source.skipped] == ["metadata.jsonl line 1"]


def test_folder_triples_refuse_a_folder_without_a_usable_triple(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no usable edit; write lines with source"):
        FolderTriples(tmp_path)
    (_folder(tmp_path, 1) / "after" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no triple of .* can be used"):
        FolderTriples(tmp_path).triples("edit", 0, 0, 1, [0], (64, 64), "cpu")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(
    st.sampled_from(["source", "target", "instruction", "text"]),
    st.none() | st.text() | st.integers() | st.lists(st.text(), max_size=2),
))  # fmt: skip
def test_read_row_never_raises_and_never_returns_missing_files(row: dict[str, object]) -> None:
    root = Path("nowhere")
    assert not isinstance(_read_row(EditImages(root, root, NameIndex([])), "line 1", row), TripleFiles)


def test_list_triples_finds_names_as_other_systems_write_them(tmp_path: Path) -> None:
    _folder(tmp_path, 1)
    (tmp_path / "metadata.jsonl").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "before" / "cafe\u0301.png")
    _write(
        tmp_path,
        {"source": "before\\0.png", "text": "windows", "target": "after\\0.png"},
        {"source": "Before/0.PNG", "text": "letter case", "target": "after/0.png"},
        {"source": "before/caf\u00e9.png", "text": "composed", "target": "after/0.png"},
    )
    files, skipped = list_triples(tmp_path)
    assert [triple.instructions for triple in files] == [("windows",), ("letter case",), ("composed",)]
    assert skipped == () and all(triple.source.is_file() for triple in files)


def test_list_triples_reads_metadata_in_csv(tmp_path: Path) -> None:
    _folder(tmp_path, 2)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_text(
        'source,instruction,target\nbefore/1.png,"brighter, please",after/1.png\n', "utf-8-sig"
    )
    assert [triple.instructions for triple in list_triples(tmp_path)[0]] == [("brighter, please",)]


def test_list_triples_says_when_the_folder_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which does not exist; allowed: a folder"):
        list_triples(tmp_path / "gone")
