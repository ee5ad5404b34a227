"""Curriculum files: typed, checked by path, and the shipped ones are those of SPEC section 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microforge.errors import SpecError
from microforge.spec import PRESETS
from microforge.training.presets import preset_settings
from microforge.training.runs.curriculum import CURRICULA, Curriculum, read_curriculum
from microforge.training.settings import FlowSettings, VAESettings

PHASE = '[[phase]]\nstage = "vae"\nsize = "128"\n'


def _read(folder: Path, text: str) -> Curriculum:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return read_curriculum(path)


def test_phase_inherits_the_preset_and_overrides_any_setting(tmp_path: Path) -> None:
    curriculum = _read(tmp_path, 'config = "tiny"\n' + PHASE + '''crop = 64
pool_sizes = [4, 8]
[phase.optimizer]
learning_rate = 1
[phase.discriminator_optimizer]
clip = 0.5

[[phase]]
stage = "flow"
size = "128x256"
noise_samples = 2
time_shift = 3
checkpoint_blocks = true
[phase.optimizer]
kind = "muon"
''')  # fmt: skip
    vae, flow = (phase.settings for phase in curriculum.phases)
    assert [phase.name for phase in curriculum.phases] == ["1-vae-128", "2-flow-128x256"]
    assert isinstance(vae, VAESettings) and isinstance(flow, FlowSettings)
    assert vae.crop == 64 and vae.pool_sizes == (4, 8) and vae.discriminator_optimizer.clip == 0.5
    assert vae.optimizer.learning_rate == 1.0 and vae.discriminator_optimizer.weight_decay == 0.0
    assert (
        flow.noise_samples == 2
        and flow.time_shift == 3.0
        and flow.optimizer.kind == "muon"
        and curriculum.phases[1].head.checkpoint_blocks
    )
    preset = preset_settings("flow", "tiny")
    assert flow.optimizer.learning_rate == preset.optimizer.learning_rate and flow.batch == preset.batch


@pytest.mark.parametrize("config", PRESETS)
def test_shipped_curricula_train_the_vae_then_the_flow_and_edit_last_at_native_size(config: str) -> None:
    curriculum = read_curriculum(CURRICULA / f"{config}.toml")
    assert curriculum.config == config and curriculum.phases[0].head.stage == "vae"
    flow, edit = curriculum.phases[-2:]
    assert (flow.head.stage, edit.head.stage) == ("flow", "edit")
    assert flow.size == edit.size == PRESETS[config].native_size
    sides = [phase.size[0] for phase in curriculum.phases if phase.head.stage == "flow"]
    assert sides == sorted(sides), "low resolution first"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs config"),
        ('config = "tiny"', r"needs at least one \[\[phase\]\]"),
        ('config = "huge"\n' + PHASE, "allowed: nano, tiny, small, base"),
        ('config = "tiny"\nseed = 1\n' + PHASE, "unknown key 'seed'"),
        ('config = "tiny"\n' + PHASE + "stpes = 3", r"phase\[0\] has an unknown key 'stpes' .did you mean steps.*; allowed: stage"),
        ('config = "tiny"\n' + PHASE + "noise_samples = 3", r"phase\[0\] has an unknown key 'noise_samples'"),
        ('config = "tiny"\n' + PHASE + '[phase.optimizer]\nrate = 1', r"phase\[0\].optimizer has an unknown key"),
        ('config = "tiny"\n' + PHASE + 'steps = "3"', r"phase\[0\].steps must be int"),
        ('config = "tiny"\n' + PHASE + "steps = 0", r"phase\[0\]: steps is 0"),
        ('config = "tiny"\n' + PHASE + "kl = -1", r"phase\[0\]: the loss weight kl"),
        ('config = "tiny"\n' + PHASE.replace("128", "100"), r"phase\[0\]: size 100x100"),
        ('config = "tiny"\n' + PHASE.replace("vae", "paint"), r"phase\[0\]: unknown stage 'paint'"),
        ('config = "tiny"\n[[phase]]\nstage = "vae"', "lacks the key 'size'"),
        ('config = "tiny"\n' + PHASE + '[phase.optimizer]\nkind = "muon"', "muon belongs to the stages flow, kd"),
        ('config = "tiny"\n' + PHASE.replace("vae", "flow"), r"phase\[0\] needs a VAE"),
        ('config = "tiny"\n' + PHASE + "decoder_only = true", r"phase\[0\] needs a VAE"),
        ('config = "tiny"\n' + PHASE + PHASE.replace("vae", "flow") + PHASE, r"phase\[2\] trains the VAE after a flow"),
        ('config = "tiny"\n' + PHASE + PHASE.replace("vae", "kd"), r"phase\[1\]: the stage kd needs a teacher"),
        ('config = "tiny"\n' + PHASE.replace("vae", "flow") + "time_shift = 0", r"phase\[0\]: time_shift is 0"),
        ("config = [", "cannot read the curriculum"),
        ('config = "tiny"\nphase = [3]', "must be a table"),
    ],
)  # fmt: skip
def test_a_bad_curriculum_is_refused_by_its_path(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        _read(tmp_path, text)


_VALUES: Any = st.recursive(
    st.booleans() | st.integers(-3, 600) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["kl", "kind", "é"]), inner),
    max_leaves=4,
)


@settings(deadline=None)  # a busy machine takes longer
@given(
    st.dictionaries(
        st.sampled_from(["stage", "size", "steps", "optimizer", "crop", "batch", "init"]), _VALUES
    )
)
def test_any_toml_is_read_or_refused_with_one_error(phase: dict[str, Any]) -> None:
    import tempfile

    lines = [f"{key} = {_toml(value)}" for key, value in phase.items()]
    with tempfile.TemporaryDirectory() as folder:
        try:
            _read(Path(folder), "\n".join(['config = "nano"', "[[phase]]", *lines]))
        except SpecError as error:
            assert "\n" not in str(error)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        return (
            '"' + "".join(f"\\U{ord(char):08x}" for char in value if not 0xD800 <= ord(char) < 0xE000) + '"'
        )
    if isinstance(value, bool):
        return str(value).lower()
    return "inf" if value == float("inf") else "-inf" if value == float("-inf") else repr(value)
