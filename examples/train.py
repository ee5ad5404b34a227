"""Fine-tune the shipped model on a folder of images with captions (NAME.png beside NAME.txt).

python examples/train.py photos --steps 2000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--init", default="pretrained", help="starting weights; the shipped teacher by default"
    )
    parser.add_argument("--steps", default="2000")
    parser.add_argument("--batch", default="16")
    parser.add_argument("--out", type=Path, default=Path("build/examples/training"))
    options = parser.parse_args()

    train = [sys.executable, "-m", "microforge.training.cli", "flow", "--init", options.init]  # mf-train flow
    train += ["--data", str(options.images), "--out", str(options.out)]
    train += ["--steps", options.steps, "--set", f"batch={options.batch}"]
    subprocess.run(train, check=True)
    caption = min(options.images.glob("*.txt")).read_text("utf-8").splitlines()[0]
    with microforge.load(options.out / "flow" / "checkpoint") as model:
        print(model.generate(caption, seed=1).save(options.out / "after-training.png"))


if __name__ == "__main__":
    main()
