"""Write the names that ``mf-generate --pack`` finds emoji by, from the set that ``mf-data stickers`` makes.

python scripts/make_emoji_names.py stickers
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from microforge_runtimes.stickers.emoji_names import LANGUAGES

OUT = Path(__file__).parents[1] / "runtimes/microforge_runtimes/stickers/emoji_names.tsv.gz"


def main(folder: Path) -> None:
    lines: dict[str, str] = {}
    for text in (folder / "metadata.jsonl").read_text("utf-8").splitlines():
        row = json.loads(text)
        columns = (";".join(row["names"].get(language, ())) for language in LANGUAGES)
        lines.setdefault(row["emoji"], "\t".join((row["emoji"], *columns)))
    OUT.write_bytes(gzip.compress("\n".join(lines.values()).encode("utf-8"), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
