"""Check an INT8 bundle: its own checks once more, and its images beside those of the checkpoint.

python examples/check_quantization.py build/examples/int8.mfb
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy as np

import microforge

PROMPTS = ("a red circle", "two blue stars", "a green square left of a yellow heart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument(
        "--checkpoint", help="that the bundle was exported from; the shipped model by default"
    )
    options = parser.parse_args()

    verify = [sys.executable, "-m", "microforge_export.cli", "verify", options.bundle]  # mf-export verify
    subprocess.run(verify, check=True)
    with microforge.load(options.checkpoint) as reference, microforge.load(options.bundle) as quantized:
        for prompt in PROMPTS:
            images = [model.generate(prompt).array for model in (reference, quantized)]
            error = float(np.square(images[0].astype(float) - images[1]).mean())
            psnr = 20.0 * np.log10(255.0) - 10.0 * np.log10(max(error, 1e-6))
            print(f"{psnr:5.1f} dB  {prompt}")


if __name__ == "__main__":
    main()
