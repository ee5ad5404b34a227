"""``mf-export text-encoder``: exports an external text encoder."""

from __future__ import annotations

from microforge.io.console import print_json, say
from microforge_export.commands import options
from microforge_export.commands.output import progress


def text_encoder(
    source: options.TextModel,
    out: options.TextEncoderOut,
    length: options.Length = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export an external text encoder to ONNX, with the inputs and outputs of a bundle's text encoder.

    The result is compared with PyTorch through the shipped runtime.
    """
    from microforge.io.atomic import check_output

    check_output(out, force)
    from microforge_export.providers.text_encoder import export_text_encoder

    with progress() as report:
        described = export_text_encoder(source, out, length, force, report)
    say(f"text_encoder: {described.parity.psnr_db:.1f} dB (needed: {described.parity.threshold_db:g})")
    if json:
        print_json({"out": str(out.absolute()), **described.model_dump()})
    else:
        print(out.absolute())
