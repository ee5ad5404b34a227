"""``mf-generate``: an image with its history, one line for every mistake, and never torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microforge.bundle.files import load_bundle
from microforge.io.console import exit_code
from microforge.version import __version__
from microforge_runtimes.cli import app

Capture = pytest.CaptureFixture[str]


def _run(*words: object) -> int:
    return exit_code(app, [str(word) for word in words])


def test_an_image_is_written_with_how_it_was_made(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new" / "image.png"
    assert _run(distilled_bundle, "a red circle — ✓", "--out", out, "--seed", 7, "--threads", 1) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out}\n" and "4/4" in printed.err
    with Image.open(out) as image:
        assert image.size == (96, 64) and image.mode == "RGB"
        texts = {name: text for name, text in image.info.items() if "xmp" not in name}
        assert texts == {
            "Software": f"microforge {__version__}", "prompt": "a red circle — ✓", "seed": "7", "task": "generate",
            "bundle": load_bundle(distilled_bundle).id, "size": "64x96", "steps": "4",
        }  # fmt: skip


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    distilled_bundle: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert _run(distilled_bundle, "a red circle", "--out", tmp_path / f"{name}.png", "--seed", seed) == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert (
        np.asarray(Image.open(tmp_path / "a.png")).tolist()
        != np.asarray(Image.open(tmp_path / "c.png")).tolist()
    )
    assert c != a


def test_json_is_the_last_line_of_stdout(guided_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "image.png"
    words = ("a red circle " * 20, "--out", out, "--size", "32", "--steps", 2, "--json")
    assert _run(guided_bundle, *words) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out.splitlines()[-1])
    assert values["image"] == str(out) and values["size"] == [32, 32] and values["steps"] == 2
    assert values["task"] == "generate" and values["target"] == "onnx"
    assert values["truncated"] and set(values["seconds"]) == {"text_encoder", "denoiser", "vae_decoder"}
    assert "warning: the prompt is longer than 16 tokens; the rest of it is ignored" in printed.err


def test_an_existing_image_is_replaced_only_with_force(
    distilled_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "image.png"
    out.write_text("mine")
    assert _run(distilled_bundle, "a red circle", "--out", out) == 2
    assert out.read_text() == "mine" and "already exists" in capsys.readouterr().err
    assert _run(distilled_bundle, "a red circle", "--out", out, "--force") == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((" ",), "the prompt is empty"),
        (("",), "the prompt is empty"),
        (("a", "--seed", "-1"), "seed is -1; allowed: 0 to"),
        (("a", "--seed", str(2**64)), "allowed: 0 to 18446744073709551615"),
        (("a", "--seed", "x"), "--seed"),
        (("a", "--size", "100"), "not a multiple of 32"),
        (("a", "--size", "banana"), "not understood"),
        (("a", "--size", "64"), "no size 64x64; it has: 64x96, 32x32"),
        (("a", "--steps", "3"), "steps is 3; this bundle allows: 4, 2, 1"),
        (("a", "--threads", "0"), "--threads"),
        (("a", "--target", "coreml"), "no target 'coreml'; it has: onnx"),
        (("a", "--task", "edit"), "--task is 'edit'; allowed: generate"),
        (("a", "--source", "x.png"), "no task for --source; its tasks: generate"),
        (("a", "--mask", "x.png"), "no task for --mask; its tasks: generate"),
        (("a", "--task", "paint"), "--task is 'paint'; allowed: generate"),
        (("a", "--task", "generate", "--source", "x.png"), "do not belong to --task generate"),
        (("a", "--out", "image.gif"), "must end in one of .png, .jpg, .jpeg, .webp"),
        (("a", "--out", "/dev/null/image.png"), "/dev/null is not a folder"),
        (("a", "--nonsense"), "--nonsense"),
        ((), "Missing argument"),
        (("a", "--count", "2", "--seed", str(2**64 - 1)), "the seeds are 18446744073709551615 to"),
        (("a", "--like", "none.png"), "--like none.png cannot be read: No such file"),
        (("a", "--c2pa-key", "key.pem"), "--c2pa-certificate and --c2pa-key belong together"),
    ],
)
def test_a_mistake_is_one_line_exit_2_and_nothing_is_written(
    guided_bundle: Path, tmp_path: Path, capsys: Capture, words: tuple[str, ...], message: str
) -> None:
    defaults = {"--out": str(tmp_path / "image.png"), "--size": "32"}
    more = [word for option in defaults.items() if option[0] not in words for word in option]
    assert _run(guided_bundle, *words, *more) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def _unknown_key(bundle: Path) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**values, "surprise": 1}))


def _outside(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text.replace("onnx/text.onnx", "../text.onnx"))


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes((bundle / name).read_bytes()[:-9])


def _flip(name: str) -> Callable[[Path], object]:
    return lambda bundle: (bundle / name).write_bytes(b"?" + (bundle / name).read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_unknown_key, "unknown key surprise"),
        (_outside, "must be relative"),
        (_truncate("manifest.json"), "is not JSON"),
        (_truncate("onnx/decoder0.onnx"), "decoder0.onnx has"),
        (_flip("onnx/denoiser0.bin"), "denoiser0.bin has SHA-256"),
        (_flip("tokenizer.json"), "tokenizer.json has SHA-256"),
        (lambda bundle: (bundle / "onnx/text.onnx").unlink(), "lacks its file onnx/text.onnx"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "has no manifest.json"),
    ],
)
def test_a_damaged_bundle_is_one_line_and_nothing_is_written(
    new_bundle: Callable[..., Path],
    tmp_path: Path,
    capsys: Capture,
    damage: Callable[[Path], object],
    message: str,
) -> None:
    bundle = new_bundle()
    damage(bundle)
    assert _run(bundle, "a red circle", "--out", tmp_path / "image.png") == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1
    assert printed.out == "" and not (tmp_path / "image.png").exists()


def test_a_graph_that_is_not_what_the_manifest_says_is_refused(
    new_bundle: Callable[..., Path], tmp_path: Path, capsys: Capture
) -> None:
    bundle = new_bundle()
    values = json.loads((bundle / "manifest.json").read_text())
    files = values["targets"]["onnx"]["files"]
    files["text"], files["decoder0"] = files["decoder0"], files["text"]
    (bundle / "manifest.json").write_text(json.dumps(values))
    assert _run(bundle, "a red circle", "--out", tmp_path / "image.png") == 2
    message = capsys.readouterr().err
    assert "the manifest says" in message and message.count("\n") == 1


def test_help_answers_at_once_with_an_example() -> None:
    start = time.perf_counter()
    done = _python("-m", "microforge_runtimes.cli", "--help")
    seconds = time.perf_counter() - start
    assert done.returncode == 0 and "Example: mf-generate" in done.stdout and "--seed" in done.stdout
    assert seconds < 2.0  # the promise is 0.5 s on a quiet machine


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, microforge_runtimes.cli; print([m for m in ('numpy', 'onnxruntime', 'PIL', 'pydantic', 'tokenizers', 'torch') if m in sys.modules])"
    assert _python("-c", code).stdout.strip() == "[]"


def test_generating_never_imports_torch(distilled_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pkgutil, importlib, microforge_runtimes\n"
        "for module in pkgutil.iter_modules(microforge_runtimes.__path__):\n"
        "    importlib.import_module('microforge_runtimes.' + module.name)\n"
        "from microforge.io.console import exit_code\n"
        "code = exit_code(microforge_runtimes.cli.app)\n"
        "print(code, 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = _python("-c", code, distilled_bundle, "a red circle", "--out", tmp_path / "image.png")
    assert done.stdout.splitlines()[-1] == "0 False True", done.stderr
    assert (tmp_path / "image.png").is_file()


def test_without_the_engine_the_extra_is_named(distilled_bundle: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None\nfrom microforge_runtimes.cli import main\nmain()"
    done = _python("-c", code, distilled_bundle, "a red circle", "--out", tmp_path / "image.png")
    assert (
        done.returncode == 2
        and done.stderr == "error: onnxruntime is not installed: pip install 'microforge[onnx]'\n"
    )


def _python(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120)
