"""Device profiles: what an app may use of a phone, as plain numbers. No torch.

The built-in profiles are classes of phones, not phones: their figures are assumptions (``DEVICES``), and what
is computed from them is a projection. A measured device has a TOML file of its own with the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from microforge.bundle.entry import Entry
from microforge.errors import SpecError
from microforge.io.user_file import parse_toml, read_user_text

MIB = 1 << 20
GIB = 1 << 30

Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


class DeviceProfile(Entry):
    """A device: memory in bytes, rates of all its ``cores`` together."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    ram_bytes: Annotated[int, Field(ge=MIB, le=1 << 50)]
    app_share: Annotated[float, Field(gt=0, le=1)]
    cores: Annotated[int, Field(ge=1, le=4096)]
    bandwidth_gb_s: Positive
    fp32_gflop_s: Positive
    int8_gop_s: Positive

    @property
    def budget_bytes(self) -> int:
        """What one app in the foreground may use before the system ends it."""
        return int(self.ram_bytes * self.app_share)


def _phone(
    gib: int, cores: int, bandwidth_gb_s: float, fp32_gflop_s: float, int8_gop_s: float
) -> DeviceProfile:
    return DeviceProfile(
        name=f"phone-{gib}gb", ram_bytes=gib * GIB, app_share=1 / 3, cores=cores,
        bandwidth_gb_s=bandwidth_gb_s, fp32_gflop_s=fp32_gflop_s, int8_gop_s=int8_gop_s,
    )  # fmt: skip


#: Assumptions. An app gets a third of the RAM (issue 8); rates are half of what the cores could do at best:
#: fp32 = cores x GHz x 8 (one 128-bit multiply-add a cycle), int8 = 2x that without the dot-product
#: instructions (2 GB: Cortex-A53 at 1.6 GHz) and 4x with them (3 and 4 GB: Cortex-A55 and A75/A76 at 2 GHz).
DEVICES: Mapping[str, DeviceProfile] = {
    "phone-2gb": _phone(2, cores=4, bandwidth_gb_s=3.0, fp32_gflop_s=25.0, int8_gop_s=50.0),
    "phone-3gb": _phone(3, cores=4, bandwidth_gb_s=6.0, fp32_gflop_s=32.0, int8_gop_s=128.0),
    "phone-4gb": _phone(4, cores=4, bandwidth_gb_s=8.0, fp32_gflop_s=40.0, int8_gop_s=160.0),
}


def find_device(name: str) -> DeviceProfile:
    """The built-in profile called ``name``, or the one in the TOML file ``name``.

    Raises:
        SpecError: for an unknown name, a file that cannot be read, or an unknown, missing or impossible key.
    """
    if name in DEVICES:
        return DEVICES[name]
    if not name.endswith(".toml"):
        raise SpecError(f"unknown device {name!r}; allowed: {', '.join(DEVICES)}, or a file NAME.toml")
    try:
        values = parse_toml(read_user_text(Path(name)))
    except OSError as error:
        raise SpecError(f"{name} cannot be read: {error.strerror or error}") from None
    except ValueError as error:  # also for bytes that are not UTF-8
        raise SpecError(f"{name} is not TOML: {error}") from None
    try:
        return DeviceProfile.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        allowed = ", ".join(DeviceProfile.model_fields)
        message = f"{key[:80]}: {problem['msg']}"
        raise SpecError(f"{name}: {' '.join(message.split())}; keys: {allowed}") from None
