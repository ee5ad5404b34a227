"""One process of libFuzzer (atheris) on one reader, or on several that the first byte chooses between."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

sys.dont_write_bytecode = True  # a reader that imports writes no files

with atheris.instrument_imports(
    include=[
        "microforge",
        "microforge_runtimes",
        "microforge_benchmarks",
        "zipfile",
        "tarfile",
        "csv",
        "tomllib",
        "PIL",
    ]
):
    from tests.fuzz.judge import Reader, judge
    from tests.fuzz.targets import reader

    def _open(names: list[str]) -> list[Reader]:
        readers = [reader(name) for name in names]
        for target in readers:
            judge(target, target.seeds[0])  # what is imported on first use is instrumented, too
        return readers


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def main(arguments: list[str]) -> None:
    """``NAME... --corpus FOLDER -- OPTIONS`` of libFuzzer; does not return."""
    names, rest = arguments[: arguments.index("--corpus")], arguments[arguments.index("--corpus") + 1 :]
    with atheris.instrument_imports(
        include=["microforge", "microforge_runtimes", "microforge_benchmarks", "PIL"]
    ):
        readers = _open(names)
    single = len(readers) == 1

    def test_one_input(data: bytes) -> None:
        if single:
            judge(readers[0], data)
        elif data:
            judge(readers[data[0] % len(readers)], data[1:])

    corpus = Path(rest[0])
    for number, target in enumerate(readers):
        for seed in target.seeds:
            content = seed if single else bytes([number]) + seed
            (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    words = sorted({word for target in readers for word in target.words})
    dictionary = corpus.parent / "words.dict"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in words) or "# none\n", "ascii")
    options = [f"-dict={dictionary}"] if words else []
    atheris.Setup([sys.argv[0], str(corpus), *options, *rest[2:]], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
