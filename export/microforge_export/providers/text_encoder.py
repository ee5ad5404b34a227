"""``mf-export text-encoder``: a transformers text model to the files of a bundle's ``text_encoder``, measured.

The folder holds ``text_encoder.onnx``, ``tokenizer.json`` and ``text_encoder.json``, which describes both. Parity is
measured on what was written, through the shipped runtime, against the model in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from microforge.bundle.entry import Entry, FileEntry
from microforge.bundle.files import file_entry, inside, sha256_file
from microforge.bundle.manifest import Component
from microforge.bundle.targets import Parity
from microforge.errors import BundleError, CheckpointError, ParityError
from microforge.hf_text_encoder import HuggingFaceTextEncoder, HuggingFaceTokenizer
from microforge.io.atomic import atomic_folder, check_output
from microforge_export.checks.golden import Array, Case
from microforge_export.checks.parity import measure
from microforge_export.components.component import SourceComponent
from microforge_export.providers.text_encoder_graph import lower_tower, text_component, write_tower
from microforge_export.recipes.build_recipe import THRESHOLDS
from microforge_runtimes.engines.onnx import OnnxSession

DESCRIPTION, GRAPH, TOKENIZER = "text_encoder.json", "text_encoder.onnx", "tokenizer.json"
#: Weights up to this many bytes are stored in the graph; a protobuf ends at 2 GiB.
INLINE_LIMIT = 1 << 30
#: Distributions whose versions the description records.
PACKAGES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime")
#: Short, ordinary, with accents and digits, and longer than any L: parity is the worst over all of them.
PROMPTS = (
    "red",
    "a red circle left of a blue square on a white background",
    "Ein großer grüner Stern über 3 Kreisen, bei Nacht",
    "a very long description " * 64,
)


class TextEncoderFiles(Entry):
    """``text_encoder.json``: what was exported, its interface, its files and how close it is to the original."""

    schema_version: Literal[1]
    architecture: str
    embed_dim: Annotated[int, Field(ge=1)]  # E
    length: Annotated[int, Field(ge=4)]  # L
    pad: Annotated[int, Field(ge=0)]
    component: Component
    graph: FileEntry
    weights: FileEntry | None
    tokenizer: FileEntry
    precision: Literal["fp32"]
    parity: Parity
    versions: dict[str, str]


def export_text_encoder(
    source: str, out: Path, length: int | None = None, force: bool = False,
    report: Callable[[int, int, str], None] = lambda *_: None, *,
    threshold_db: float = THRESHOLDS["fp32"].component_psnr_db, inline_limit: int = INLINE_LIMIT,
) -> TextEncoderFiles:  # fmt: skip
    """Export the model in the folder ``source``, or of that hub id; ``out`` appears whole or not at all.

    Args:
        length: L; by default 64, or the model's own limit when that is less.
        report: called with number, count and name of every stage before it starts.

    Raises:
        OutputExistsError, OutputError: as ``microforge.bundle.files.atomic_folder``.
        MissingExtraError, CheckpointError, SpecError: as the classes of ``microforge.hf_text_encoder``.
        GraphLintError, ParityError: when the graph or its results are not good enough.
    """
    check_output(out, force)
    report(1, 4, "read the model")
    tower = HuggingFaceTextEncoder.from_pretrained(source, length)
    tokenizer = HuggingFaceTokenizer.from_pretrained(source, tower.spec.max_length)
    _check_vocabulary(source, tower, tokenizer)
    with atomic_folder(out, force, marker=DESCRIPTION) as folder:
        report(2, 4, "export by optimum")
        graph = lower_tower(tower, folder)
        report(3, 4, "write")
        files = [file_entry(folder, path.name) for path in write_tower(graph, folder / GRAPH, inline_limit)]
        tokenizer.save(folder / TOKENIZER)
        report(4, 4, "check parity")
        component = text_component(tower)
        written = HuggingFaceTokenizer.from_file(folder / TOKENIZER)
        parity = _parity(folder / GRAPH, component, written, threshold_db)
        made = TextEncoderFiles(
            schema_version=1,
            architecture=tower.family.name,
            embed_dim=tower.embed_dim,
            length=tower.spec.max_length,
            pad=tokenizer.pad_id,
            component=component.entry(),
            graph=files[0],
            weights=files[1] if len(files) > 1 else None,
            tokenizer=file_entry(folder, TOKENIZER),
            precision="fp32",
            parity=parity,
            versions={name: version(name) for name in PACKAGES},
        )
        (folder / DESCRIPTION).write_text(made.model_dump_json(indent=1) + "\n", "utf-8")
    return made


def open_text_encoder(
    folder: Path, threads: int | None = None
) -> tuple[OnnxSession, HuggingFaceTokenizer, TextEncoderFiles]:
    """An exported tower ready to run: the session takes ids and mask (1, L) and gives text and pooled.

    Raises:
        BundleError: when a file is missing or is not what its hash says, or the description is damaged.
    """
    try:
        described = TextEncoderFiles.model_validate_json((folder / DESCRIPTION).read_bytes())
    except OSError as error:
        raise BundleError(f"{folder / DESCRIPTION} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise BundleError(f"{folder / DESCRIPTION}: {where}: {problem['msg']}; export it again") from None
    for entry in (described.graph, described.weights, described.tokenizer):
        if entry is not None and sha256_file(inside(folder, entry.path)) != entry.sha256:
            raise BundleError(f"{folder / entry.path} is not what its SHA-256 says; copy or export it again")
    session = OnnxSession(folder / described.graph.path, described.component, threads)
    return session, HuggingFaceTokenizer.from_file(folder / described.tokenizer.path), described


def _check_vocabulary(source: str, tower: HuggingFaceTextEncoder, tokenizer: HuggingFaceTokenizer) -> None:
    if tokenizer.vocab_size > tower.spec.vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} tokens, the model {tower.spec.vocab_size}"
        )


def _parity(
    graph: Path, component: SourceComponent, tokenizer: HuggingFaceTokenizer, threshold_db: float
) -> Parity:
    """Worst metric over ``PROMPTS`` and the empty one, through the runtime; refuses what falls short."""
    cases = []
    for tokens in (*map(tokenizer.encode, PROMPTS), tokenizer.encode_empty()):
        inputs: dict[str, Array] = {"ids": tokens.ids[None], "mask": tokens.mask[None]}
        cases.append(Case(inputs, component.evaluate(inputs)))
    session = OnnxSession(graph, component.entry())
    try:
        parity = measure(session, cases, threshold_db=threshold_db)
    finally:
        session.close()
    if parity.psnr_db < threshold_db:
        raise ParityError(f"text_encoder has {parity.psnr_db:.1f} dB, needed: {threshold_db:g} dB")
    return parity
