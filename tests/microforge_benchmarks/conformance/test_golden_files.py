"""The golden files in conformance/ are those that this version writes, and they say what they are meant to."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from microforge.bundle.files import parse_manifest
from microforge.bundle.sampling import SamplerTable
from microforge.errors import BundleError
from microforge_benchmarks.conformance.golden_files import golden_texts, read_text, write_golden_files
from microforge_benchmarks.conformance.strings import COUNT, strings
from microforge_runtimes.sampler import advance, weighted_sum

FOLDER = Path(__file__).parents[3] / "conformance"
MAX_BYTES = 3 << 20


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    write_golden_files(folder)
    return folder


def test_the_committed_files_are_those_that_the_command_writes(written: Path) -> None:
    """Else run ``python -m microforge_benchmarks.conformance conformance``."""
    for name in golden_texts():
        assert read_text(FOLDER / name) == read_text(written / name), name
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= MAX_BYTES


def test_a_file_with_the_same_contents_is_left_alone(written: Path) -> None:
    path = written / "manifests.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
    other = path.read_bytes()
    write_golden_files(written)
    assert path.read_bytes() == other


def test_the_strings_are_many_scripts_and_all_assigned() -> None:
    texts = strings()
    assert len(texts) == COUNT
    characters = {character for text in texts for character in text}
    categories = {unicodedata.category(character) for character in characters}
    assert (
        "Cn" not in categories
        and {"Lu", "Lo", "Mn", "Nd", "No", "So", "Zs", "Zl", "Cc", "Cf", "Co"} <= categories
    )
    assert {"R", "AL", "NSM"} <= {unicodedata.bidirectional(character) for character in characters}
    assert "👩‍👩‍👧" in "".join(texts) and "\u0130" in texts


def test_every_manifest_is_accepted_or_refused_as_the_file_says() -> None:
    lines = read_text(FOLDER / "manifests.jsonl.gz").splitlines()
    assert len(lines) > 100
    for line in lines:
        entry = json.loads(line)
        data = bytes.fromhex(entry["hex"]) if "hex" in entry else entry["manifest"].encode()
        if entry["accepted"]:
            parse_manifest(data)
        else:
            with pytest.raises(BundleError):
                parse_manifest(data)


def test_every_sampler_table_replays_bit_by_bit() -> None:
    values = json.loads(read_text(FOLDER / "samplers.json"))
    for case in values["cases"]:
        table = SamplerTable.model_validate(case["table"])
        noise = [None if item is None else np.array(item, np.float32) for item in case["noise"]]
        inputs = [np.array(item, np.float32) for item in case["inputs"]]
        outputs = [np.array(item, np.float32) for item in case["outputs"]]
        assert noise[0] is not None
        np.testing.assert_array_equal(weighted_sum([(table.first, noise[0])]), inputs[0])
        for index, row in enumerate(table.rows):
            result = advance(row, inputs[index::-1], outputs[index::-1], noise[index + 1])
            np.testing.assert_array_equal(result, inputs[index + 1], err_msg=f"{case['name']} row {index}")
