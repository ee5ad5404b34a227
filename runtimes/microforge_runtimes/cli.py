"""``mf-generate``: registers the command, which is defined in ``microforge_runtimes.commands``."""

from __future__ import annotations

from microforge.io.console import command_app, run
from microforge_runtimes.commands.generate import generate

app = command_app("Generate images with a bundle or a checkpoint.")

EXAMPLE = (
    'Example: mf-generate model.mfb "a red circle left of a blue square" --out image.png --seed 3\n\n'
    'mf-generate model.mfb "make the circle green" --source photo.jpg --out edited.png\n\n'
    'mf-generate model.mfb "a yellow star" "a green ring" --count 4 --out shapes.png\n\n'
    "mf-generate model.mfb --like image.png --out again.png\n\n"
    'mf-generate model.mfb "a cat" "a dog" "a pizza" --pack stickers --for whatsapp'
)

app.command(epilog=EXAMPLE)(generate)


def main() -> None:
    """Entry point of ``mf-generate``."""
    run(app)


if __name__ == "__main__":
    main()
