"""Enlarge an image four times.

python examples/super_resolve.py icon.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="a small generated image by default")
    parser.add_argument("--model", help="a bundle or a checkpoint; the shipped model by default")
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    parser.add_argument("--force", action="store_true", help="replace an earlier image")
    options = parser.parse_args()

    with microforge.load(options.model) as model:
        source = options.image or model.generate("a red circle", seed=3).image.reduce(4)
        enlarged = model.super_resolve(
            source, factor=4, callback=lambda step: print(f"step {step.index} of {step.steps}", end="\r")
        )
        print(enlarged.save(options.out / "enlarged.png", options.force))


if __name__ == "__main__":
    main()
