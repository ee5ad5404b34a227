"""Bundles of schema version 1 give the images that they always gave: those of their twins in version 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microforge.bundle.files import load_bundle
from microforge.noise import NOISE_NAME
from microforge.spec import TASKS
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS
from microforge_runtimes import Generator, Request

RNG = np.random.default_rng(0)
SOURCE = RNG.random((1, 3, 64, 64), np.float32)
SMALL = RNG.random((1, 3, 32, 32), np.float32)
MASK = np.zeros((1, 1, 64, 64), np.float32)
MASK[..., :32, 20:50] = 1.0


@pytest.fixture(scope="module")
def old_bundle(editing_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of ``editing_bundle`` under a manifest as version 1 wrote it."""
    folder = tmp_path_factory.mktemp("old") / "editing.mfb"
    shutil.copytree(editing_bundle, folder)
    new = json.loads((editing_bundle / "manifest.json").read_text())
    for component in new["components"].values():
        for tensor in (*component["inputs"], *component["outputs"]):
            del tensor["default"]
    target = new["targets"]["onnx"]
    old: dict[str, Any] = {
        "schema_version": 1, "model": {"name": "miniature"}, "tasks": list(TASKS), "sizes": new["sizes"],
        "sampler": {
            "timesteps": [1.0, 0.75, 0.5, 0.25, 0.0], "guidance": {"text": 3.0, "image": 1.5}, "prediction": "velocity",
            "unchanged": None,
        },
        "latent": new["latent"], "noise": NOISE_NAME,
        "tokenizer": {
            "file": new["tokenizers"]["prompt"]["file"], "max_length": 16, "pad": PAD, "bos": BOS, "eos": EOS,
            "task_prefixes": {task: TASK_IDS[task] for task in TASKS},
        },
        "components": new["components"],
        "targets": {"onnx": {key: target[key] for key in ("precision", "files", "shared_files")}},
        "provenance": new["provenance"],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(old))
    return folder


@pytest.mark.parametrize(
    "request_",
    [
        Request("a red circle", seed=3),
        Request("a red circle", seed=3, steps=2),
        Request("a blue square", "edit", SOURCE, seed=4),
        Request("a blue square", "edit", SOURCE, MASK, seed=4),
        Request(None, "inpaint", SOURCE, MASK, seed=5),
        Request(None, "super-resolve", SMALL, seed=6),
    ],
)
def test_every_task_of_an_old_bundle_gives_the_same_latent_and_pixels(
    old_bundle: Path, editing_bundle: Path, request_: Request
) -> None:
    old, new = (Generator(path, size=(64, 64)).run(request_) for path in (old_bundle, editing_bundle))
    np.testing.assert_array_equal(old.latent, new.latent)
    np.testing.assert_array_equal(old.float_image, new.float_image)
    assert old.latent.std() > 0.01


def test_an_old_manifest_is_the_same_value_but_for_what_it_did_not_say(
    old_bundle: Path, editing_bundle: Path
) -> None:
    old, new = load_bundle(old_bundle).manifest, load_bundle(editing_bundle).manifest
    assert (old.samplers, old.conditions, old.encoders, old.state, old.decode) == (
        new.samplers, new.conditions, new.encoders, new.state, new.decode,
    )  # fmt: skip
    assert all(old.tasks[name] == new.tasks[name] for name in TASKS)
    assert old.preview is None and old.components == new.components
