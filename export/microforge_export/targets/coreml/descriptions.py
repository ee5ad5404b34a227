"""Writes descriptions into the specification of a Core ML package, as Xcode shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from microforge_export.targets.descriptions import ComponentDescription

#: Name of the function of a package with a single function.
MAIN = "main"


def add_descriptions(spec: Any, descriptions: Mapping[str, ComponentDescription]) -> None:
    """Set author, licence, short description and the descriptions of inputs and outputs.

    Args:
        spec: Core ML's ``Model`` protobuf message; changed in place.
        descriptions: texts by function name. Those of the whole package are joined where functions differ.
    """
    texts = list(descriptions.values())
    if not texts:
        return
    metadata = spec.description.metadata
    metadata.author, metadata.license = texts[0].author, texts[0].licence
    metadata.shortDescription = " ".join(item.summary for item in texts)
    for name in texts[0].properties:
        metadata.userDefined[name] = "; ".join(dict.fromkeys(item.properties[name] for item in texts))
    functions = list(spec.description.functions)
    if functions:
        for function in functions:
            if function.name in descriptions:
                _add_tensors(function, descriptions[function.name])
    elif MAIN in descriptions:
        _add_tensors(spec.description, descriptions[MAIN])


def _add_tensors(function: Any, description: ComponentDescription) -> None:
    _set(function.input, description.inputs)
    _set(function.output, description.outputs)


def _set(features: Iterable[Any], texts: Mapping[str, str]) -> None:
    for feature in features:
        # Core ML has no int64: ids are int32 in the package.
        feature.shortDescription = texts.get(feature.name, "").replace("int64", "int32")
