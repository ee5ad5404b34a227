"""``mf-data``: thin; everything heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from microforge.io.console import command_app, print_json, run

app = command_app("Make data sets for training.")

EXAMPLES = """Examples:

mf-data stickers --out stickers   (fetches the packages with npm, about 30 MB, then renders some 7,000 pictures)

mf-data stickers --out stickers --packages FOLDER   (the packages are there already; see docs/data.md)

mf-data tokenizer --stickers stickers --out tokenizer.json   (reads six languages; for new text encoders)

mf-train vae --init pretrained --data scenes+stickers:stickers --out runs/mine   (train on shapes and stickers)
"""


@app.callback()
def _group() -> None:
    """Make data sets for training."""


@app.command(epilog=EXAMPLES)
def stickers(
    out: Annotated[Path, typer.Option(help="Folder to make; an interrupted one is continued.")],
    packages: Annotated[Path | None, typer.Option(
        help="Folder with the npm packages (node_modules, unpacked, or .tgz); fetched with npm when left out.")] = None,
    side: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 256,
    force: Annotated[bool, typer.Option("--force", help="Start over in a finished folder.")] = False,
    json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Render emoji from freely licensed sets as RGBA pictures with names in six languages."""
    from rich.console import Console

    from microforge.data.stickers.emoji.build import build_stickers

    console = Console(stderr=True)
    result = build_stickers(out, side, packages, force, console)
    if result.left_out:
        first = "; ".join(result.left_out[:3])
        console.print(
            f"{len(result.left_out)} pictures left out: {first}; ...", markup=False, highlight=False
        )
    if json:
        print_json({
            "folder": str(result.folder.absolute()), "pictures": result.pictures, "subjects": result.subjects,
            "styles": list(result.styles), "left_out": len(result.left_out),
        })  # fmt: skip
    else:
        print(result.folder)


@app.command()
def tokenizer(
    stickers: Annotated[Path, typer.Option(help="Sticker set whose names, tags and captions it learns.")],
    out: Annotated[Path, typer.Option(help="tokenizer.json to write.")],
    vocabulary: Annotated[int, typer.Option(min=512, help="Number of token ids.")] = 8192,
    cache: Annotated[Path, typer.Option(help="Folder for the decoded stickers.")] = Path("cache"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object as the last line of stdout.")] = False,
) -> None:  # fmt: skip
    """Train a tokenizer for captions in six languages; the shipped one belongs to the shipped weights."""
    from rich.console import Console

    from microforge.data.stickers.image_source import StickerSource
    from microforge.data.stickers.tokenizer_corpus import build_sticker_tokenizer, caption_lengths
    from microforge.io.atomic import atomic_bytes, check_output

    check_output(out, force)
    console = Console(stderr=True)
    source = StickerSource(stickers, cache, console)
    source.prepare((256, 256))
    console.print("training the tokenizer")
    trained = build_sticker_tokenizer(source.world, vocabulary)
    lengths = {name: round(length, 1) for name, length in caption_lengths(source.world, trained).items()}
    atomic_bytes(out, trained.to_json().encode("utf-8"), force)
    if json:
        print_json({"tokenizer": str(out.absolute()), "tokens_per_caption": lengths})
    else:
        console.print(
            "tokens per caption: " + ", ".join(f"{name} {length}" for name, length in lengths.items())
        )
        print(out)


def main() -> None:
    """Entry point of ``mf-data``."""
    run(app)


if __name__ == "__main__":
    main()
