"""A model card for the Hugging Face hub, for models that have none of their own. No torch."""

from __future__ import annotations

from collections.abc import Sequence

_TEMPLATE = """\
---
library_name: microforge
pipeline_tag: {pipeline}
tags:
- microforge
- text-to-image
---

# {title}

A MicroForge {kind}: {tasks} at {sizes} pixels in {steps} sampling steps.

```python
import microforge

model = microforge.from_pretrained("{name}")
model.generate("a red circle", seed=3).save("image.png")
```

{needs}
"""
_NEEDS = {
    "bundle": "It runs without PyTorch: `pip install 'microforge[onnx,hub]'`.",
    "checkpoint": "It runs in PyTorch, `pip install 'microforge[train,hub]'`, and exports to phones with `mf-export build`.",
}


def model_card(
    name: str, kind: str, tasks: Sequence[str], sizes: Sequence[tuple[int, int]], steps: int
) -> str:
    """The text of a README.md with the front matter that the hub reads.

    Args:
        name: ``owner/name`` on the hub.
        kind: ``bundle`` or ``checkpoint``.
        tasks: what the model can do.
        sizes: (height, width) in pixels.
        steps: sampling steps.
    """
    return _TEMPLATE.format(
        name=name,
        title=name.split("/")[-1],
        kind=kind,
        pipeline="text-to-image",
        tasks=", ".join(tasks),
        sizes=", ".join(f"{height}x{width}" for height, width in sizes),
        steps=steps,
        needs=_NEEDS[kind],
    )
