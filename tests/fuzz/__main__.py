"""Coverage-guided fuzzing of every format that comes from strangers (extra ``fuzz``: atheris, Linux on x86-64).

    python -m tests.fuzz                         100,000 inputs for each reader, one process after another
    python -m tests.fuzz image mask --runs 5000  only these readers
    python -m tests.fuzz --together --runs 2000  all readers in one process, as continuous integration does

Each reader accepts its input or refuses it in one line; anything else stops its run and is written to ``--out`` as a file,
which ``python -m tests.fuzz READER --replay FILE`` reads again. The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.targets import READERS, missing_package


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "readers", nargs="*", choices=[*READERS, []], help="readers to attack; all by default"
    )
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each reader (100000)")
    parser.add_argument(
        "--seconds", type=int, default=0, help="stop each reader's run after so long; 0 for no limit"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the changes (1)")
    parser.add_argument("--together", action="store_true", help="attack all readers in one process")
    parser.add_argument("--replay", type=Path, help="read this one file and show what goes wrong")
    parser.add_argument(
        "--out", type=Path, default=Path("build/fuzz"), help="folder of found inputs and corpora (build/fuzz)"
    )
    options = parser.parse_args()
    names = options.readers or list(READERS)
    for name in names:
        if package := missing_package(name):
            print(f"{name}: left out, {package} is not installed", file=sys.stderr)
    names = [name for name in names if missing_package(name) is None]
    if options.replay is not None:
        return _replay(names[0], options.replay)
    runs = [("together", names)] if options.together else [(name, [name]) for name in names]
    results = {label: _run(label, which, options) for label, which in runs}
    failures = sum(result["failed"] for result in results.values())
    total = sum(result["inputs"] for result in results.values())
    print(json.dumps({"inputs": total, "failures": failures, "readers": results}))
    return 1 if failures else 0


def _replay(name: str, path: Path) -> int:
    from tests.fuzz.judge import judge
    from tests.fuzz.targets import reader

    print("accepted" if judge(reader(name), path.read_bytes()) else "refused")
    return 0


def _run(label: str, names: list[str], options: argparse.Namespace) -> dict[str, int]:
    """One process of libFuzzer; a finding ends it."""
    out = options.out / label
    (out / "corpus").mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable, "-m", "tests.fuzz.coverage_guided", *names, "--corpus", str(out / "corpus"), "--",
        f"-runs={options.runs}", f"-seed={options.seed}", f"-max_total_time={options.seconds}", "-timeout=120", "-rss_limit_mb=3072",
        f"-artifact_prefix={out}/", "-print_final_stats=1", "-verbosity=1", "-len_control=20", "-max_len=65536",
    ]  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    (out / "log.txt").write_bytes((done.stdout + done.stderr).encode("utf-8", "replace"))
    match = re.search(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    result = {
        "inputs": int(match[1]) if match else 0,
        "failed": int(done.returncode != 0),
        "seconds": round(time.monotonic() - started),
    }
    print(
        f"{label}: {result} {_finding(done.stderr) if done.returncode else ''}".rstrip(),
        file=sys.stderr,
        flush=True,
    )
    return result


def _finding(text: str) -> str:
    lines = [
        line for line in text.splitlines() if "Misbehaviour" in line or "ERROR" in line or "Error" in line
    ]
    return lines[-1][:300] if lines else text[-300:]


if __name__ == "__main__":
    sys.exit(main())
