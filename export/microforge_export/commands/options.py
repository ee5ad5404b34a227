"""The options of ``mf-export`` that several commands share, and the long ones, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_OUTPUT, _CONTENT, _TUNING = "Output", "What the bundle contains", "Measurement"
_DIFFUSERS = "Models in diffusers' format"


def positive(text: str | int) -> int:
    """A whole number of at least 1; without the notation of ranges that typer adds to the help.

    Raises:
        BadParameter: if it is none.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise typer.BadParameter(f"{text!r} is not a whole number of at least 1")
    return number


# Arguments
Bundle = Annotated[
    Path,
    typer.Argument(
        help="Bundle, written by mf-export build: a folder, or an archive NAME.mfb.zip.", metavar="BUNDLE"
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Argument(
        help="Checkpoint folder with config.json, model.safetensors and tokenizer.json. Default: the shipped student.",
        metavar="CHECKPOINT",
    ),
]
Source = Annotated[
    Path | None,
    typer.Argument(
        help="Checkpoint folder with config.json, model.safetensors and tokenizer.json, or a folder in diffusers' format with model_index.json. Default: the shipped student.",
        metavar="CHECKPOINT",
    ),
]
TextModel = Annotated[
    str,
    typer.Argument(
        help="Folder of a transformers model with its tokenizer, or a Hugging Face Hub id. CLIP, Gemma-2, BERT and MiniLM are supported.",
        metavar="FOLDER_OR_ID",
    ),
]

TrustedKey = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="Ed25519 public key in PEM form; the bundle must be signed by it.",
        metavar="PUBLIC.pem",
    ),
]

# Output
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as one JSON object on the last line of stdout.",
        rich_help_panel=_OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be built and write nothing.", rich_help_panel=_OUTPUT),
]
BundleOut = Annotated[
    Path | None,
    typer.Option(
        help="Bundle folder to write. Required unless --dry-run is given.",
        metavar="FOLDER.mfb",
        rich_help_panel=_OUTPUT,
    ),
]
RecipeOut = Annotated[
    Path, typer.Option(help="Recipe file to write.", metavar="FILE.toml", rich_help_panel=_OUTPUT)
]
TextEncoderOut = Annotated[
    Path,
    typer.Option(
        help="Folder to write: text_encoder.onnx, tokenizer.json and text_encoder.json.",
        metavar="FOLDER",
        rich_help_panel=_OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace the output if it exists.", rich_help_panel=_OUTPUT),
]

# Environment
DoctorTargets = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="Engines that must be usable, separated by commas: onnx, executorch, coreml, litert. Default: onnx, and every installed package in a tested version.",
        metavar="NAMES",
    ),
]

# What a bundle contains
Targets = Annotated[
    str,
    typer.Option(
        help="Engines to build for, separated by commas: onnx, executorch, coreml, litert.",
        metavar="NAMES",
        rich_help_panel=_CONTENT,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        help="Image size in pixels: 256, or 256x384 (height x width). Repeat for several sizes in one bundle. Default: the size that the model was trained at.",
        metavar="SIZE",
        rich_help_panel=_CONTENT,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32 or int8, and fp16 for coreml. Default: fp16 for coreml, fp32 for the others.",
        metavar="NAME",
        rich_help_panel=_CONTENT,
    ),
]
Recipes = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipe",
        help="INT8 recipe written by mf-export tune. Repeat for several targets. Default: the recipe that ships for the model.",
        metavar="FILE.toml",
        rich_help_panel=_CONTENT,
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        help="Tasks, separated by commas: generate, edit, inpaint, super-resolve. Default: all tasks of the checkpoint.",
        metavar="NAMES",
        rich_help_panel=_CONTENT,
    ),
]

# Models in diffusers' format
Steps = Annotated[
    str | None,
    typer.Option(
        help="Step counts of the bundle, separated by commas, the default first: 4,8. Default: what the model's family needs.",
        metavar="COUNTS",
        rich_help_panel=_DIFFUSERS,
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Default guidance scale; 1 is none. Default: what the model's family needs.",
        metavar="SCALE",
        rich_help_panel=_DIFFUSERS,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Scheduler of diffusers in place of the model's own, such as DPMSolverMultistepScheduler.",
        metavar="CLASS",
        rich_help_panel=_DIFFUSERS,
    ),
]
Vae = Annotated[
    Path | None,
    typer.Option(
        help="Folder of another autoencoder for the same latents, such as TAESD.",
        metavar="FOLDER",
        rich_help_panel=_DIFFUSERS,
    ),
]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        help="LoRA file (safetensors) that is folded into the weights, with its scale. Repeat for several.",
        metavar="FILE[:SCALE]",
        rich_help_panel=_DIFFUSERS,
    ),
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        help="Text file with a prompt per line, to fit previews and to calibrate INT8 with. Default: a built-in list.",
        metavar="FILE",
        rich_help_panel=_DIFFUSERS,
    ),
]

# Tuning
TuneTarget = Annotated[
    str, typer.Option(help="Engine to tune for: onnx, executorch, coreml or litert.", metavar="NAME")
]
Prefer = Annotated[
    str,
    typer.Option(
        help="speed: quantize a component only if that makes it faster, and choose the fastest candidate. size: choose the smallest candidate within the limits.",
        metavar="speed|size",
    ),
]
TuneSize = Annotated[
    str | None,
    typer.Option(
        help="Image size in pixels: 256, or 256x384 (height x width). Default: the size that the model was trained at.",
        metavar="SIZE",
    ),
]
StartRecipe = Annotated[
    Path | None,
    typer.Option(
        help="Begin with the choice of this recipe instead of measuring candidates, and only relax it until all limits hold.",
        metavar="FILE.toml",
    ),
]
Prompts = Annotated[
    int,
    typer.Option(
        parser=positive,
        help="Images that are compared with fp32, now and in every build that applies the recipe.",
        metavar="N",
        rich_help_panel=_TUNING,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        parser=positive, help="Timed evaluations of each candidate.", metavar="N", rich_help_panel=_TUNING
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        parser=positive, help="Threads of the engine while it is timed.", metavar="N", rich_help_panel=_TUNING
    ),
]
Measured = Annotated[
    Path | None,
    typer.Option(
        help="Read the times from this file of mf-bench rows, measured on a device, instead of timing candidates here.",
        metavar="ROWS.json",
        rich_help_panel=_TUNING,
    ),
]
Note = Annotated[
    str,
    typer.Option(
        help="One line about the measurements, stored in the recipe.",
        metavar="TEXT",
        rich_help_panel=_OUTPUT,
    ),
]

# Text encoder
Length = Annotated[
    int | None,
    typer.Option(
        help="Tokens per encoded prompt. Default: 64, or the limit of the model if that is lower.",
        metavar="TOKENS",
    ),
]

# Memory
Device = Annotated[
    str,
    typer.Option(
        help="Device profile: phone-2gb, phone-3gb, phone-4gb, or a TOML file.", metavar="NAME_OR_FILE"
    ),
]
LoadingMode = Annotated[
    str,
    typer.Option(
        help="resident: all components stay loaded. staged: each component is loaded for its turn. auto: resident if it fits.",
        metavar="auto|resident|staged",
    ),
]
FitTarget = Annotated[str, typer.Option(help="Engine: onnx or executorch.", metavar="NAME")]
FitSize = Annotated[
    str | None,
    typer.Option(
        help="Image size, 256 or 256x384 (height x width). Required if the bundle has several sizes.",
        metavar="SIZE",
    ),
]
