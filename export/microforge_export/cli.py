"""``mf-export``: registers the commands; each is defined in ``microforge_export.commands``."""

from __future__ import annotations

from microforge.io.console import command_app, run
from microforge_export.commands.archive import pack, unpack
from microforge_export.commands.build import build
from microforge_export.commands.bundles import fit, inspect, verify
from microforge_export.commands.distill import distill
from microforge_export.commands.doctor import doctor
from microforge_export.commands.quantize import tune
from microforge_export.commands.signing import fetch, sign
from microforge_export.commands.text_encoder import text_encoder

_BUILD, _BUNDLES, _OTHER = "Build", "Check a bundle", "Other"

app = command_app("Export models to bundles for phones, check them, and tune their precision.")


@app.callback()
def _commands() -> None:
    """Export models to bundles for phones, check them, and tune their precision."""


app.command(
    rich_help_panel=_BUILD,
    epilog="Example: mf-export build --out model.mfb --target onnx,executorch --size 128 --size 128x256\n\n"
    "mf-export build ./sd-turbo --out sd-turbo.mfb --vae ./taesd --size 512",
)(build)
app.command(
    rich_help_panel=_BUILD, epilog="Example: mf-export tune --target onnx --prefer size --out nano-onnx.toml"
)(tune)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export verify model.mfb")(verify)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export inspect model.mfb --json")(inspect)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export fit model.mfb --device phone-3gb")(fit)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export pack model.mfb --out model.mfb.zip")(pack)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export unpack model.mfb.zip --out model.mfb")(
    unpack
)
app.command(rich_help_panel=_BUNDLES, epilog="Example: mf-export sign model.mfb --key key.pem")(sign)
app.command(
    rich_help_panel=_BUNDLES, epilog="Example: mf-export fetch https://example.org/model.mfb --out model.mfb"
)(fetch)
app.command(rich_help_panel=_OTHER, epilog="Example: mf-export doctor --target onnx,coreml")(doctor)
app.command(
    rich_help_panel=_OTHER,
    epilog="Example: mf-export distill runs/tiny/flow/checkpoint --out runs/tiny-4 --bf16   (kill it at will; repeat with --resume)",
)(distill)
app.command(
    "text-encoder",
    rich_help_panel=_OTHER,
    epilog="Example: mf-export text-encoder ./clip-vit-base-patch32 --length 77 --out clip-text",
)(text_encoder)


def main() -> None:
    """Entry point of ``mf-export``."""
    run(app)


if __name__ == "__main__":
    main()
