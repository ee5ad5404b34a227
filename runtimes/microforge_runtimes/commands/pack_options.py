"""Which options of ``mf-generate`` go with ``--pack``. No heavy imports: it is read before anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from microforge.errors import SpecError
from microforge.io.option_rules import is_given

_REASON = "a pack is made of prompts alone, and writes its folder only"


def check_pack_options(
    pack: Path | None, alone: Mapping[str, object], companions: Mapping[str, object]
) -> None:
    """Refuse options that do not go with ``--pack``, or not without it.

    Args:
        pack: the folder of ``--pack``.
        alone: Option -> value of those that exclude it.
        companions: Option -> value of those that belong to it.

    Raises:
        SpecError: names the option.
    """
    options = alone if pack is not None else companions
    for option, value in options.items():
        if is_given(value) and value != []:
            if pack is None:
                raise SpecError(f"{option} belongs to --pack FOLDER")
            raise SpecError(f"{option} and --pack exclude each other: {_REASON}; leave {option} out")
    if pack is not None and not companions.get("--for"):
        raise SpecError("--pack needs --for PLATFORM: whatsapp, telegram or imessage")
