"""The options of ``mf-generate`` as annotated types, in the order of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_SAMPLE, _SOURCE, _MODEL, _OUTPUT, _PACK, _MARKS = (
    "What is generated", "Start from an image", "Model", "Output", "Sticker pack", "Settings and marks in the image",
)  # fmt: skip


def _option(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Model = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="Bundle (folder or NAME.mfb.zip), or a checkpoint's folder."),
]
Prompts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT...",
        help="What the image shows, in quotes; for edit what to change. Several prompts give an image each. inpaint and super-resolve can do without.",
    ),
]

# What is generated
Seed = Annotated[
    int | None,
    _option(
        _SAMPLE,
        "0 to 2**64 - 1. The same seed gives the same image on every device. Default: 0.",
        metavar="N",
    ),
]
Count = Annotated[
    int,
    _option(
        _SAMPLE,
        "Images per prompt, with consecutive seeds; a contact sheet shows them together.",
        min=1,
        max=1000,
        metavar="N",
    ),
]
Size = Annotated[
    str | None,
    _option(
        _SAMPLE,
        "Image size in pixels, 256 or 256x384 (height x width), if the bundle has several. Default for a source image: the one that fits best.",
        metavar="SIZE",
    ),
]
Steps = Annotated[
    int | None, _option(_SAMPLE, "Sampling steps, a number that the bundle allows.", min=1, metavar="N")
]
Negative = Annotated[
    str | None,
    _option(
        _SAMPLE,
        "What the image should not show, for a model with guidance. Default: the empty prompt.",
        metavar="TEXT",
    ),
]
Guidance = Annotated[
    list[str] | None,
    _option(
        _SAMPLE,
        "How closely the image follows the prompt, if the bundle lets you choose; NAME=SCALE where it has several scales.",
        metavar="SCALE",
    ),
]
Task = Annotated[
    str | None,
    _option(
        _SAMPLE,
        "generate, edit, inpaint, super-resolve or vary. Default: inpaint with --mask, vary with --strength, edit with --source alone, else generate.",
        metavar="NAME",
    ),
]

# Start from an image
Source = Annotated[
    Path | None, _option(_SOURCE, "Image of any size to edit, to fill or to enlarge.", metavar="IMAGE")
]
Mask = Annotated[
    Path | None,
    _option(
        _SOURCE,
        "Image of the source's size, white where pixels may change. All others stay.",
        metavar="IMAGE",
    ),
]
Factor = Annotated[
    int | None, _option(_SOURCE, "How much super-resolve enlarges: 2 (default) or 4.", metavar="2|4")
]
Strength = Annotated[
    float | None,
    _option(
        _SOURCE,
        "For vary: how far the result may go from the source, above 0 to 1.",
        metavar="SHARE",
    ),
]
Composite = Annotated[
    bool, _option(_SOURCE, "For edit: keep the source's pixels where nothing visibly changed.", "--composite")
]

# Model
Target = Annotated[
    str | None,
    _option(
        _MODEL, "Engine: onnx (default), executorch, coreml or litert, if the bundle has it.", metavar="NAME"
    ),
]
Threads = Annotated[int | None, _option(_MODEL, "CPU threads of the engine.", min=1, max=1024, metavar="N")]

SignedBy = Annotated[
    Path | None,
    _option(
        _MODEL,
        "Open the bundle only if the owner of this Ed25519 public key signed it.",
        "--key",
        metavar="KEY.pem",
    ),
]

# Output
Out = Annotated[
    Path | None,
    _option(
        _OUTPUT,
        "Image to write: .png, .jpg or .webp. Several images are numbered: NAME-0001.png ..., with NAME-sheet.png.",
        metavar="FILE",
    ),
]
Transparent = Annotated[
    bool,
    _option(
        _OUTPUT,
        "Write the objects without their background, as PNG or WebP with alpha.",
        "--transparent",
    ),
]
Preview = Annotated[
    bool,
    _option(
        _OUTPUT,
        "Also write a small preview after every sampling step: NAME-step1.png ...",
        "--preview",
    ),
]
Force = Annotated[bool, _option(_OUTPUT, "Replace existing files.", "--force")]
Json = Annotated[bool, _option(_OUTPUT, "Print one JSON object on the last line of stdout.", "--json")]

# Sticker pack
Pack = Annotated[
    Path | None,
    _option(
        _PACK,
        "Write a sticker pack of all prompts instead of --out: cut out, enlarged, outlined, within the limits of --for.",
        metavar="FOLDER",
    ),
]
Platform = Annotated[
    str | None, _option(_PACK, "whatsapp, telegram or imessage.", "--for", metavar="PLATFORM")
]
PackName = Annotated[str | None, _option(_PACK, "Name of the pack. Default: the folder's.", metavar="TEXT")]
PackAuthor = Annotated[
    str | None, _option(_PACK, "Publisher of the pack. Default: MicroForge.", metavar="TEXT")
]
Emoji = Annotated[
    list[str] | None,
    _option(
        _PACK,
        "Emoji of a prompt's stickers, once per prompt. Default: those whose names stand in the prompt.",
        metavar="EMOJI",
    ),
]

# Settings and marks
Like = Annotated[
    Path | None,
    _option(
        _MARKS,
        "Generate this image again from the settings inside it; other options replace single settings. Give --source and --mask again.",
        metavar="IMAGE",
    ),
]
Private = Annotated[
    bool,
    _option(
        _MARKS,
        "Leave prompt, seed and all other settings out of the image. The mark as generated stays.",
        "--private",
    ),
]
Certificate = Annotated[
    Path | None,
    _option(
        _MARKS,
        "Sign the image (C2PA): certificate chain, the signer's own first.",
        "--c2pa-certificate",
        metavar="FILE.pem",
    ),
]
Key = Annotated[
    Path | None, _option(_MARKS, "Private key of that certificate.", "--c2pa-key", metavar="FILE.pem")
]
