"""Measure a bundle on this machine: latency, memory and a report with plots.

python examples/benchmark.py build/examples/int8.mfb
"""

from __future__ import annotations

import argparse
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", default="build/examples/benchmark")
    parser.add_argument("--force", action="store_true", help="replace an earlier report")
    options = parser.parse_args()

    bench = [sys.executable, "-m", "microforge_benchmarks.bench_cli", options.bundle]  # mf-bench BUNDLE
    bench += ["--runs", str(options.runs), "--out", options.out, *(["--force"] if options.force else [])]
    subprocess.run(bench, check=True)
    print(f"open {options.out}/report.html")


if __name__ == "__main__":
    main()
