"""Texts by which an artefact introduces itself: what it is, where it comes from, and what its tensors mean.

ONNX files carry them as ``metadata_props`` and doc strings, Core ML packages as author, licence and descriptions. All
texts depend on the model and the version of MicroForge only, so two builds of one checkpoint are still byte-identical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from microforge.bundle.manifest import TensorSpec
from microforge.version import __version__
from microforge_export.components.component import SourceComponent

#: What networks of these roles do; other roles are described by their name.
_ROLES: Mapping[str, str] = {
    "text_encoder": "encodes a tokenized prompt",
    "denoiser": "predicts the velocity of a noisy latent, conditioned on a prompt",
    "denoiser_edit": "predicts the velocity of a noisy latent, conditioned on a prompt and a source image",
    "vae_decoder": "decodes a latent to an image",
    "vae_encoder": "encodes an image to a latent",
}
#: What tensors with these names contain; other tensors are described by type and shape only.
_TENSORS: Mapping[str, str] = {
    "ids": "token ids of the prompt, padded",
    "mask": "1 for tokens of the prompt, 0 for padding",
    "text": "features of the prompt's tokens",
    "pooled": "features of the whole prompt",
    "z": "noisy latent, normalised per channel",
    "t": "time, from 1 (noise) to 0 (image)",
    "plan": "plan state of the previous evaluation; zeros in the first one",
    "has_plan": "1 if plan is given, 0 in the first evaluation",
    "source": "latent of the source image, normalised per channel",
    "velocity": "velocity of the latent: a step to the time t_next adds (t_next - t) * velocity",
    "next_plan": "plan state for the next evaluation",
    "latent": "latent of the autoencoder",
    "image": "RGB image with values from 0 to 1",
}


@dataclass(frozen=True)
class ModelDescription:
    """What is said of every component of a model.

    Attributes:
        name: name of the model.
        about: one line about the model; may be empty.
        licence: SPDX identifier of the weights' licence; empty if unknown.
        source: where the weights come from, for example the hash of their checkpoint.
        tasks: what the model does.
        sizes: image sizes of the bundle, such as "256x256".
    """

    name: str
    about: str
    licence: str
    source: str
    tasks: tuple[str, ...]
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class ComponentDescription:
    """The texts of one artefact.

    Attributes:
        summary: one sentence.
        author: who exported it.
        licence: SPDX identifier, or a sentence that it is unknown.
        properties: further facts by name.
        inputs: what every input contains, by its name.
        outputs: what every output contains, by its name.
    """

    summary: str
    author: str
    licence: str
    properties: Mapping[str, str]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def describe(
    components: Sequence[SourceComponent], model: ModelDescription
) -> dict[str, ComponentDescription]:
    """The texts of every component, by component key."""
    return {item.key: _describe(item, model) for item in components}


def _describe(component: SourceComponent, model: ModelDescription) -> ComponentDescription:
    what = _ROLES.get(component.role, f"network with the role {component.role}")
    sizes = model.sizes if component.size is None else (str(component.size),)
    properties = {
        "model": f"{model.name} {model.about}".strip(),
        "component": component.key,
        "role": component.role,
        "source": model.source,
        "task": ", ".join(model.tasks),
        "sizes": ", ".join(sizes),
    }
    return ComponentDescription(
        summary=f"{model.name}, {component.key}: {what}. Image sizes: {', '.join(sizes)} pixels.",
        author=f"Exported by MicroForge {__version__} (mf-export)",
        licence=model.licence or "not stated by the checkpoint",
        properties=properties,
        inputs={spec.name: _tensor(spec) for spec in component.inputs},
        outputs={spec.name: _tensor(spec) for spec in component.outputs},
    )


def _tensor(spec: TensorSpec) -> str:
    form = f"{spec.dtype} ({', '.join(map(str, spec.shape))})"
    meaning = _TENSORS.get(spec.name)
    return form if meaning is None else f"{meaning[0].upper()}{meaning[1:]}. {form}"
