"""The sampler table of a scheduler follows the library, whatever the scheduler computes."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from microforge.bundle.sampling import SamplerTable
from microforge.errors import SpecError
from microforge_benchmarks.conformance.sampler_cases import TABLES
from microforge_export.providers.diffusers.replay import measured_sampler, replay_error
from microforge_export.providers.diffusers.sampling_loop import SchedulerLoop
from tests.microforge_export.providers.diffusers import settings
from tests.microforge_export.providers.diffusers.tiny_models import BETAS


@pytest.mark.parametrize("name", settings.SETTINGS)
def test_table_follows_the_scheduler_on_random_data(name: str) -> None:
    loop = settings.loop(name)
    sampler = measured_sampler(loop, loop.steps)
    assert replay_error(loop, sampler, seed=7) <= 5e-6
    assert sampler.table.steps == loop.steps
    assert all(max(len(row.u), len(row.m)) <= 4 for row in sampler.table.rows)


@pytest.mark.parametrize(
    ("scheduler", "option"),
    [
        ("DDIMScheduler", {"clip_sample": True}),
        ("DPMSolverMultistepScheduler", {"thresholding": True}),
        ("DDPMScheduler", {"variance_type": "learned_range", "clip_sample": False}),
    ],
)
def test_non_linear_option_is_refused_by_name(scheduler: str, option: dict[str, object]) -> None:
    import diffusers

    made = getattr(diffusers, scheduler)(**BETAS, **option)
    name, value = next(iter(option.items()))
    with pytest.raises(SpecError, match=f"{scheduler}: {name}={value!r} makes the sampler non-linear"):
        measured_sampler(SchedulerLoop(made, 10), 10)


def test_multistep_table_has_history_and_euler_has_none() -> None:
    depth = {
        name: max(len(row.m) for row in measured_sampler(settings.loop(name), 4).table.rows)
        for name in ("euler-4", "dpm-2m")
    }
    assert depth == {"euler-4": 1, "dpm-2m": 2}


def test_levels_are_the_scheduler_s_noise_levels() -> None:
    table = measured_sampler(settings.loop("flow-euler"), 20).table
    assert [sum(row.level or ()) for row in table.rows] == pytest.approx([1.0] * 20, abs=1e-6)
    assert table.rows[0].level == pytest.approx((0.0, 1.0), abs=1e-6)
    assert table.starts() == tuple(range(20))


@pytest.mark.parametrize("name", settings.GOLDEN)
def test_golden_table_is_what_the_library_gives_now(name: str) -> None:
    golden = SamplerTable.model_validate_json((TABLES / f"{name}.json").read_bytes())
    steps = settings.GOLDEN[name]
    table = measured_sampler(settings.loop(name, steps), steps).table
    assert table.times == pytest.approx(golden.times, rel=1e-6)
    for row, wanted in zip(table.rows, golden.rows, strict=True):
        assert (len(row.u), len(row.m)) == (len(wanted.u), len(wanted.m))
        assert (*row.u, *row.m, row.noise) == pytest.approx(
            (*wanted.u, *wanted.m, wanted.noise), rel=1e-4, abs=1e-5
        )
