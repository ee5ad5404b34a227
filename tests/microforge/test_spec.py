"""Configurations: they survive JSON, and whatever is wrong with one is named in one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microforge.errors import SpecError
from microforge.spec import (
    PRESETS,
    ModelSpec,
    SamplerSpec,
    VAESpec,
    check_proportion,
    check_size,
    from_dict,
    parse_size,
    preset,
    read_size,
    to_dict,
)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name: str) -> None:
    spec = preset(name)
    assert from_dict(ModelSpec, json.loads(json.dumps(to_dict(spec)))) == spec


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'huge'; allowed: nano, tiny, small, base"):
        preset("huge")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("surprise",), 1, "unknown key 'surprise'"),
        (("vae", "channels"), [1, 2, 3], "must hold 4 values, got 3"),
        (("vae", "channels"), 7, "must be a list"),
        (("vae", "stem_factor"), 3, "allowed: 2, 4, 8"),
        (("vae", "latent_mean"), [0.0], "1 numbers for 16 latent channels"),
        (("backbone", "depth"), "4", "config.backbone.depth must be int"),
        (("backbone", "depth"), True, "config.backbone.depth must be int"),
        (("backbone", "dim"), 100, "not a multiple of head_dim"),
        (("backbone", "max_decay"), 0.9, "at most 0.5"),
        (("backbone", "scan_paths"), 3, "allowed: 1, 2, 4"),
        (("planner", "dim"), 64, "differs from backbone dim"),
        (("sampler", "timesteps"), [1.0, 0.5], "end at 0.0"),
        (("sampler", "timesteps"), [1.0, 0.5, 0.5, 0.0], "fall strictly"),
        (("tasks",), ["paint"], "unknown task 'paint'"),
        (("vae",), [], "config.vae must be a table"),
    ],
)
def test_a_wrong_setting_is_named(path: tuple[str, ...], value: object, message: str) -> None:
    values = to_dict(preset("nano"))
    table = values
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(SpecError, match=message) as caught:
        from_dict(ModelSpec, values)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named() -> None:
    values = to_dict(preset("nano"))
    del values["vae"]["mid_depth"]
    with pytest.raises(SpecError, match=r"config\.vae lacks the key 'mid_depth'"):
        from_dict(ModelSpec, values)


def test_integers_become_floats_where_floats_belong() -> None:
    sampler = from_dict(SamplerSpec, {"timesteps": [1, 0]})
    assert sampler.timesteps == (1.0, 0.0) and isinstance(sampler.timesteps[0], float)


def test_statistics_default_to_no_change() -> None:
    vae = preset("tiny").vae
    assert isinstance(vae, VAESpec)
    assert vae.mean == (0.0,) * 16 and vae.std == (1.0,) * 16 and vae.downsample == 32


@pytest.mark.parametrize(
    ("text", "size"), [("256", (256, 256)), ("256x384", (256, 384)), ("64X32", (64, 32))]
)
def test_sizes_are_height_by_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "12.5", "-32", "256x256x256", "256x", "٣٢", "9999999"])
def test_a_size_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not understood"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "nearest"), [((100, 256), "96x256"), ((0, 32), "32x32"), ((130, 1), "128x32")]
)
def test_a_size_off_the_grid_names_the_nearest(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(SpecError, match=f"nearest allowed: {nearest}"):
        check_size(*size)


@given(st.integers(-100, 5000), st.integers(-100, 5000))
def test_check_size_accepts_exactly_the_positive_multiples(height: int, width: int) -> None:
    allowed = height > 0 and width > 0 and height % 32 == 0 and width % 32 == 0
    try:
        assert check_size(height, width) == (height, width) and allowed
    except SpecError:
        assert not allowed


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("backbone", "head_dim"), 0, "head_dim has 0; allowed: 1 to"),
        (("backbone", "depth"), 10**9, "depth has 1000000000; allowed: 1 to 512"),
        (("backbone", "attn_heads"), 3, "attn_heads is 3; it must divide the width 128"),
        (("backbone", "conv_kernel"), 65_535, "conv_kernel has 65535; allowed: 1 to 31"),
        (("text_encoder", "vocab_size"), 10**40, "a number of more than 30 digits; allowed: 1 to"),
        (("vae", "channels"), [16, 32, 64, -128], "channels has -128"),
        (("native_size",), [1 << 20, 64], "native_size has 1048576; allowed: 1 to 8192"),
        (("sampler", "text_guidance"), 10**400, "must be a finite number, got a number of more than 30 digits"),
        (("sampler", "timesteps"), [1.0 - i / 20_000 for i in range(20_001)], "20001 timesteps; at most"),
        (("name",), ["x" * 10_000], "config.name must be str, got "),
    ],
)  # fmt: skip
def test_a_setting_beyond_any_model_is_refused_in_a_short_line(
    path: tuple[str, ...], value: object, message: str
) -> None:
    values = to_dict(preset("nano"))
    table = values
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    with pytest.raises(SpecError, match=message) as caught:
        from_dict(ModelSpec, values)
    assert len(str(caught.value)) < 300


def test_a_configuration_needs_as_many_weights_as_its_matrices_have() -> None:
    with pytest.raises(SpecError, match=r"needs at least \d[\d,]+ weights, the checkpoint has 1,000"):
        check_proportion(preset("base"), 1000)


@pytest.mark.parametrize(
    "size", [256, "256", "256x256", "256X256", (256, 256), [256, 256], np.int64(256), (256,)]
)
def test_a_size_is_read_in_every_usual_form(size: Any) -> None:
    assert parse_size(size) == (256, 256)


@pytest.mark.parametrize(
    "size", ["", "2x5x6", (1, 2, 3), (), None, True, 2.5, (256, "x"), "x" * 10_000, b"256", -5, {}]
)
def test_what_is_no_size_is_refused_in_one_short_line(size: Any) -> None:
    with pytest.raises(SpecError, match="is not understood; write 256 or 256x384") as caught:
        read_size(size)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
