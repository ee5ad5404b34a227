"""Artefacts introduce themselves, and two builds still write the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from microforge.bundle.manifest import Size
from microforge.components.networks import tensor
from microforge_export.components.component import SourceComponent, trace
from microforge_export.providers.microforge import TEXTS
from microforge_export.targets.descriptions import ComponentDescription, ModelDescription, describe
from microforge_export.targets.onnx.lower import lower_all

MODEL = ModelDescription(
    name="miniature", about="for tests", licence="MIT", source="checkpoint with SHA-256 00ff", tasks=("generate", "edit"), sizes=("32x32", "32x64"),
    texts=TEXTS,
)  # fmt: skip


class Decoder(nn.Module):
    """Latent (1, 4, 8, 8) to image (1, 3, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 48, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        return torch.pixel_shuffle(self.convolution(latent), 4).clamp(0.0, 1.0)


@pytest.fixture(scope="module")
def decoders() -> tuple[SourceComponent, ...]:
    """The same network twice, as at two image sizes of one model."""
    torch.manual_seed(0)
    module = Decoder().requires_grad_(False)
    latent, image = tensor("latent", 1, 4, 8, 8), tensor("image", 1, 3, 32, 32)
    size = Size(height=32, width=32)
    return tuple(
        SourceComponent(key, "vae_decoder", size, module, (latent,), (image,))
        for key in ("decoder_a", "decoder_b")
    )


@pytest.fixture(scope="module")
def traced(decoders: tuple[SourceComponent, ...]) -> dict[str, ExportedProgram]:
    return {item.key: trace(item) for item in decoders}


@pytest.fixture(scope="module")
def texts(decoders: tuple[SourceComponent, ...]) -> dict[str, ComponentDescription]:
    return describe(decoders, MODEL)


def test_a_description_states_origin_licence_and_tensors(texts: Mapping[str, ComponentDescription]) -> None:
    text = texts["decoder_a"]
    assert text.summary == "miniature, decoder_a: decodes a latent to an image. Image sizes: 32x32 pixels."
    assert text.properties == {
        "model": "miniature: for tests", "component": "decoder_a", "role": "vae_decoder", "sizes": "32x32",
        "source": "checkpoint with SHA-256 00ff", "task": "generate, edit",
    }  # fmt: skip
    assert text.outputs == {"image": "RGB image with values from 0 to 1. float32 (1, 3, 32, 32)"}


def test_an_unknown_licence_and_unknown_names_are_said_to_be_so() -> None:
    component = SourceComponent("x", "upscaler", None, Decoder(), (tensor("w", 1),), ())
    model = ModelDescription(
        name="m", about="", licence="", source="", tasks=("generate",), sizes=("8x8", "8x9")
    )
    text = describe([component], model)["x"]
    assert text.licence == "not stated by the checkpoint"
    assert text.summary == "m, x: network with the role upscaler. Image sizes: 8x8, 8x9 pixels."
    assert text.inputs == {"w": "float32 (1)"}


def write_onnx(
    folder: Path, decoders: tuple[SourceComponent, ...], traced: Mapping[str, ExportedProgram],
    texts: Mapping[str, ComponentDescription],
) -> dict[str, bytes]:  # fmt: skip
    folder.mkdir()
    lower_all(decoders, traced).write(folder, texts)
    return {path.name: path.read_bytes() for path in (folder / "onnx").iterdir()}


def without_texts(message: Any) -> Any:
    """A protobuf ``message`` without metadata and doc strings, at any depth."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif hasattr(value, "ListFields"):
            without_texts(value)
        elif field.message_type is not None:
            for item in value:
                without_texts(item)
    return message


def test_onnx_files_carry_the_description_and_are_otherwise_unchanged(
    decoders: tuple[SourceComponent, ...], traced: dict[str, ExportedProgram],
    texts: dict[str, ComponentDescription], tmp_path: Path,
) -> None:  # fmt: skip
    described, again = (write_onnx(tmp_path / name, decoders, traced, texts) for name in ("a", "b"))
    plain = write_onnx(tmp_path / "plain", decoders, traced, {})
    assert described == again, "two builds write the same bytes"
    assert described["weights.bin"] == plain["weights.bin"]
    model = onnx.load_from_string(described["decoder_a.onnx"])
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties["license"] == "MIT" and properties["task"] == "generate, edit"
    assert model.doc_string == model.graph.doc_string == texts["decoder_a"].summary
    assert model.graph.input[0].doc_string == texts["decoder_a"].inputs["latent"]
    assert model.graph.output[0].doc_string == texts["decoder_a"].outputs["image"]
    stripped = without_texts(model).SerializeToString(deterministic=True)
    unnamed = onnx.load_from_string(plain["decoder_a.onnx"])
    assert stripped == without_texts(unnamed).SerializeToString(deterministic=True)
    assert not unnamed.metadata_props


def core_ml_spec(folder: Path, texts: Mapping[str, ComponentDescription], deployment: str) -> Any:
    ct = pytest.importorskip("coremltools")
    from microforge_export.targets.coreml.lower import lower
    from microforge_export.targets.coreml.target import CoreMLArtefacts

    torch.manual_seed(0)
    module = Decoder().requires_grad_(False)
    latent, image = tensor("latent", 1, 4, 8, 8), tensor("image", 1, 3, 32, 32)
    item = SourceComponent("decoder_a", "vae_decoder", Size(height=32, width=32), module, (latent,), (image,))
    model = lower(item, trace(item), deployment=deployment)  # type: ignore[arg-type]
    keys = ("decoder_a", "decoder_b") if deployment == "ios18" else ("decoder_a",)
    artefacts = CoreMLArtefacts(dict.fromkeys(keys, model), dict.fromkeys(keys, "vae_decoder"), deployment)  # type: ignore[arg-type]
    folder.mkdir()
    files = artefacts.write(folder, texts).files
    return ct.utils.load_spec(str(folder / files["decoder_a"].path)).description


def test_core_ml_packages_carry_author_licence_and_tensors(
    texts: dict[str, ComponentDescription], tmp_path: Path
) -> None:
    description = core_ml_spec(tmp_path / "a", texts, "ios17")
    metadata = description.metadata
    assert metadata.license == "MIT" and metadata.author.startswith("Exported by MicroForge")
    assert metadata.shortDescription == texts["decoder_a"].summary
    assert metadata.userDefined["source"] == "checkpoint with SHA-256 00ff"
    assert description.input[0].shortDescription == texts["decoder_a"].inputs["latent"]
    assert description.output[0].shortDescription == texts["decoder_a"].outputs["image"]


def test_every_function_of_a_core_ml_package_is_described(
    texts: dict[str, ComponentDescription], tmp_path: Path
) -> None:
    description = core_ml_spec(tmp_path / "a", texts, "ios18")
    assert [item.name for item in description.functions] == ["decoder_a", "decoder_b"]
    for function in description.functions:
        assert function.input[0].shortDescription == texts[function.name].inputs["latent"]
    assert description.metadata.userDefined["component"] == "decoder_a; decoder_b"
    assert description.metadata.userDefined["sizes"] == "32x32"
