"""The settings that an image was generated with: enough to generate it again, byte for byte. No torch.

They travel inside the image as one line of JSON in its XMP packet (``xmp``). What they say of source and mask are
hashes of pixels (``SourceImage.digest``), never the images.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from microforge.errors import DataError

#: Longest text of settings that is read.
MAX_BYTES = 8 << 20
Word = Annotated[str, Field(min_length=1, max_length=100)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Settings(BaseModel):
    """How one image was generated; None is what was not used.

    ``height`` and ``width`` are the model's, in pixels; an edited image has its source's own. ``bundle`` is the id of
    the bundle or checkpoint. ``seed`` is the image's own, also in a batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    task: Word
    prompt: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)]
    steps: Count
    height: Count
    width: Count
    bundle: Word
    target: Word
    threads: Count | None = None
    factor: Count | None = None
    composite: bool = False
    strength: float | None = None
    negative: str | None = None
    guidance: Annotated[dict[Word, float], Field(max_length=8)] | None = None
    source_sha256: Digest | None = None
    mask_sha256: Digest | None = None

    def text(self) -> str:
        """One line of ASCII JSON, without what is not used."""
        values = self.model_dump(exclude_none=True, exclude_defaults=False)
        return json.dumps(values, ensure_ascii=True)

    @property
    def size(self) -> str:
        """As ``--size`` takes it: "256x384" (height x width)."""
        return f"{self.height}x{self.width}"


def mask_digest(mask: NDArray[np.bool_]) -> str:
    """SHA-256 of a mask (h, w)."""
    head = f"{mask.shape[0]}x{mask.shape[1]}".encode()
    return hashlib.sha256(head + np.packbits(mask).tobytes()).hexdigest()


def parse_settings(text: str) -> Settings:
    """Settings from their JSON ``text``.

    Raises:
        DataError: when they are damaged, or of a later version; one line that does not name the file.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"has settings of {len(text)} characters; at most {MAX_BYTES} are read")
    try:
        return Settings.model_validate_json(text, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "JSON"
        reason = "is unknown" if problem["type"] == "extra_forbidden" else problem["msg"].lower()
        raise DataError(
            f"has settings that this version cannot use ({where}: {' '.join(reason.split())}); update microforge"
        ) from None
