"""Device profiles: built in, and a user's TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from microforge.bundle.devices import DEVICES, GIB, find_device
from microforge.errors import SpecError

TOML = 'name = "mine"\nram_bytes = 4_000_000_000\napp_share = 0.25\ncores = 8\nbandwidth_gb_s = 10\nfp32_gflop_s = 50.5\nint8_gop_s = 200\n'


def test_built_in_profiles_give_an_app_a_third() -> None:
    assert {name: DEVICES[name].budget_bytes for name in DEVICES} == {
        f"phone-{gib}gb": gib * GIB // 3 for gib in (2, 3, 4)
    }
    assert all(name == profile.name for name, profile in DEVICES.items())


def test_a_toml_profile_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    assert find_device(str(path)).budget_bytes == 1_000_000_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TOML + "ram_gb = 3\n", "ram_gb"),
        (TOML.replace("cores = 8\n", ""), "cores"),
        (TOML.replace("0.25", "1.5"), "app_share"),
        (TOML.replace("= 10", "= nan"), "bandwidth_gb_s"),
        ("name = ", "not TOML"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line_that_names_the_key(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=said) as caught:
        find_device(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["phone-9gb", "absent.toml"])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match=name):
        find_device(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("3221225472", "9" * 400), "ram_bytes: "), (("6.0", "inf"), "bandwidth_gb_s: "), (("0.33", "nan"), "app_share: "),
        (("cores = 4", "cores = 4\nx = " + "[" * 3000), "is not TOML: it is nested too deeply"),
    ],
)  # fmt: skip
def test_impossible_numbers_and_endless_brackets_are_one_line(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = (
        'name = "phone"\nram_bytes = 3221225472\napp_share = 0.33\ncores = 4\nbandwidth_gb_s = 6.0\n'
        "fp32_gflop_s = 32.0\nint8_gop_s = 128.0\n"
    )
    path = tmp_path / "device.toml"
    path.write_text(text, "utf-8")
    assert find_device(str(path)).cores == 4
    path.write_text(text.replace(*change), "utf-8")
    with pytest.raises(SpecError, match=message) as caught:
        find_device(str(path))
    assert "\n" not in str(caught.value)
