"""Export a checkpoint to an INT8 bundle for ONNX Runtime, and generate an image with it.

python examples/export_int8.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", help="the shipped model by default")
    parser.add_argument("--recipe", help="made by mf-export tune; the shipped one of the model by default")
    parser.add_argument("--out", type=Path, default=Path("build/examples/int8.mfb"))
    parser.add_argument("--force", action="store_true", help="replace an earlier bundle")
    options = parser.parse_args()

    recipes = [options.recipe] if options.recipe else []
    bundle = microforge.export(
        options.checkpoint,
        options.out,
        targets=["onnx"],
        precision="int8",
        recipes=recipes,
        force=options.force,
    )
    with microforge.load(bundle) as model:  # needs no torch
        result = model.generate("a red circle on a white background", seed=3)
    print(bundle, result)


if __name__ == "__main__":
    main()
