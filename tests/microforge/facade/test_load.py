"""``microforge.load`` and ``import microforge``: what they open, and what they do not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import microforge
from microforge.errors import BundleError, CheckpointError, SpecError


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "pydantic", "typer", "tokenizers", "microforge_runtimes")
    code = f"import sys, microforge; print([name for name in {heavy} if name in sys.modules])"
    assert _run(code) == "[]"


def test_every_name_of_the_stable_interface_loads_and_no_other_does() -> None:
    assert sorted(microforge.__all__) == microforge.__all__
    for name in microforge.__all__:
        assert getattr(microforge, name) is not None
        assert name in dir(microforge)
    with pytest.raises(AttributeError, match="no attribute 'draw'"):
        microforge.draw  # noqa: B018


def test_a_bundle_runs_without_torch(editing_bundle: Path) -> None:
    code = (
        f"import sys, microforge; model = microforge.load({str(editing_bundle)!r})\n"
        "print(model.generate('a red circle').size, 'torch' in sys.modules)"
    )
    assert _run(code) == "(64, 64) False"


def test_the_shipped_student_without_torch_is_one_line_that_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import microforge\n"
        "try: microforge.load()\n"
        "except ValueError as error: print(error)"
    )
    said = _run(code)
    assert "pip install 'microforge[train]'" in said and "bundle" in said and "\n" not in said


def test_load_gives_the_shipped_student_by_default() -> None:
    """Reads 90 MB of weights, which takes a second."""
    with microforge.load() as model:
        assert model.tasks == ("generate", "edit", "inpaint", "super-resolve", "vary")
        assert model.sizes == ((256, 256),)
        result = model.generate("a red circle on a white background", seed=1)
    red, green, blue = np.median(result.array[100:156, 100:156].reshape(-1, 3), axis=0)
    assert result.steps == 4 and red > 180 and green < 90 and blue < 90


def test_a_missing_model_says_how_to_download_what_looks_like_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no such bundle or checkpoint$"):
        microforge.load(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"microforge\.from_pretrained\('owner/name'\)"):
        microforge.load("owner/name")


def test_options_that_do_not_go_with_the_model_are_refused(
    editing_checkpoint: Path, editing_bundle: Path
) -> None:
    with pytest.raises(SpecError, match="target 'onnx' is for bundles"):
        microforge.load(editing_checkpoint, target="onnx")
    with pytest.raises(SpecError, match="device 'cpu' is for checkpoints"):
        microforge.load(editing_bundle, device="cpu")
    with pytest.raises(BundleError, match="coreml"):
        microforge.load(editing_bundle, target="coreml")


def test_a_damaged_checkpoint_is_refused_when_it_is_loaded(editing_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((editing_checkpoint / name).read_bytes()[:1000])
    (tmp_path / "config.json").write_bytes((editing_checkpoint / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        microforge.load(tmp_path)
