"""Generate images of one prompt with several seeds.

python examples/generate.py "a red circle left of a blue square" --count 4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="a red circle left of a blue square")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--model", help="a bundle or a checkpoint; the shipped model by default")
    parser.add_argument("--out", type=Path, default=Path("build/examples"))
    parser.add_argument("--force", action="store_true", help="replace earlier images")
    options = parser.parse_args()

    with microforge.load(options.model) as model:
        for seed in range(options.count):
            result = model.generate(options.prompt, seed=seed)
            print(
                result.save(options.out / f"generated-{seed}.png", options.force), f"{result.seconds:.2f} s"
            )


if __name__ == "__main__":
    main()
