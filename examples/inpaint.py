"""Fill a part of an image; every pixel outside the mask is preserved bit for bit.

python examples/inpaint.py photo.png --mask mask.png --prompt "a red circle and a yellow star"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="generated from a prompt by default")
    parser.add_argument("--mask", help="white where to fill; without an image the right half")
    parser.add_argument("--prompt", default="a red circle and a yellow star on a white background")
    parser.add_argument("--model", help="a bundle or a checkpoint; the shipped model by default")
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    parser.add_argument("--force", action="store_true", help="replace an earlier image")
    options = parser.parse_args()

    with microforge.load(options.model) as model:
        source = options.image or model.generate("a red circle left of a blue square", seed=3)
        mask = options.mask
        if isinstance(source, microforge.GeneratedImage):
            mask = np.tile(np.arange(source.size[1]) >= source.size[1] // 2, (source.size[0], 1))
        filled = model.inpaint(source, mask, options.prompt, seed=1)
        print(filled.save(options.out / "inpainted.png", options.force))


if __name__ == "__main__":
    main()
