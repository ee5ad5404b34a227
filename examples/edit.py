"""Edit an image by an instruction; other pixels are preserved where nothing changed.

python examples/edit.py photo.png "make the circle green"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="generated from a prompt by default")
    parser.add_argument("instruction", nargs="?", default="make the circle green")
    parser.add_argument("--model", help="a bundle or a checkpoint; the shipped model by default")
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    parser.add_argument("--force", action="store_true", help="replace an earlier image")
    options = parser.parse_args()

    with microforge.load(options.model) as model:
        source = options.image or model.generate("a red circle on a white background", seed=3)
        edited = model.edit(source, options.instruction, composite=True, seed=1)
        print(edited.save(options.out / "edited.png", options.force))


if __name__ == "__main__":
    main()
