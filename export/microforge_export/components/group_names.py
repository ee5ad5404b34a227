"""The name of the operator group that a layer with weights belongs to: the unit that quantization chooses for.

A group is named by the kind of operator and the module path of the weight, in three words at most, the same
for every target: ``matmul backbone.blocks.ffn``, ``conv decoder.stages.1``, ``gather tokens``. Layers of a
stack of the same kind share a group; a convolution keeps its level, since levels differ in cost.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["conv", "matmul", "gather"]


def group_name(kind: Kind, path: str | None) -> str:
    """The group of a weight with the parameter name ``path``; ``KIND other`` for a constant that is no parameter.

    The layer's own name is left out, and so are indices, but for the first one of a convolution.
    """
    if path is None:
        return f"{kind} other"
    kept: list[str] = []
    parts = path.split(".")[:-1]
    layers = parts[:-1] if len(parts) > 1 else parts
    indexed = False
    for part in layers:
        if part.isdigit():
            if kind == "conv" and not indexed:
                kept.append(part)
                break
            indexed = True
            continue
        kept.append(part)
    return f"{kind} {'.'.join(kept)}"
