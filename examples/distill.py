"""Distill a trained checkpoint to a student of a few steps, and compare their speed.

python examples/distill.py build/examples/training/flow/checkpoint --steps 2000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import microforge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--student-steps", default="4", help="sampling steps: 1, 2, 4 or 8")
    parser.add_argument("--steps", default="2000", help="optimizer steps")
    parser.add_argument("--trajectories", default="8192", help="samples of the teacher to learn from")
    parser.add_argument("--batch", default="32")
    parser.add_argument("--out", type=Path, default=Path("build/examples/student"))
    options = parser.parse_args()

    distill = [sys.executable, "-m", "microforge_export.cli", "distill"]  # mf-export distill
    distill += [str(options.teacher), "--out", str(options.out), "--student-steps", options.student_steps]
    distill += ["--steps", options.steps, "--set", f"batch={options.batch}"]
    distill += ["--set", f"trajectories={options.trajectories}"]
    subprocess.run(distill, check=True)
    for checkpoint in (options.teacher, options.out):
        with microforge.load(checkpoint) as model:
            result = model.generate("a red circle", seed=1)
            print(f"{checkpoint}: {result.steps} steps, {result.seconds:.2f} s")


if __name__ == "__main__":
    main()
