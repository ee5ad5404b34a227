"""Texts by which an artefact introduces itself: what it is, where it comes from, and what its tensors mean.

ONNX files carry them as ``metadata_props`` and doc strings, Core ML packages as author, licence and descriptions. All
texts depend on the model and the version of MicroForge only, so two builds of one checkpoint are still byte-identical.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from microforge.bundle.manifest import TensorSpec
from microforge.version import __version__
from microforge_export.components.component import SourceComponent


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
        texts: what networks do, by role, and what tensors contain, by name; others are described by what they are.
    """

    name: str
    about: str
    licence: str
    source: str
    tasks: tuple[str, ...]
    sizes: tuple[str, ...]
    texts: Mapping[str, str] = field(default_factory=dict)


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
    what = model.texts.get(component.role, f"network with the role {component.role}")
    sizes = model.sizes if component.size is None else (str(component.size),)
    properties = {
        "model": f"{model.name}: {model.about}" if model.about else model.name,
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
        inputs={spec.name: _tensor(spec, model.texts) for spec in component.inputs},
        outputs={spec.name: _tensor(spec, model.texts) for spec in component.outputs},
    )


def _tensor(spec: TensorSpec, texts: Mapping[str, str]) -> str:
    form = f"{spec.dtype} ({', '.join(map(str, spec.shape))})"
    meaning = texts.get(spec.name)
    return form if meaning is None else f"{meaning[0].upper()}{meaning[1:]}. {form}"
