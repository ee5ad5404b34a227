"""Random streams: no two uses share numbers, and none has moved since caches were written with it."""

from __future__ import annotations

import itertools
from enum import IntEnum

import numpy as np
import pytest

from microforge.data.order import step_rng
from microforge.data.world.explicit_prompts import sample_rewrites
from microforge.spec import TASKS
from microforge.streams import STREAM_LENGTH, FixedSeed, StepStream, TensorStream
from microforge.training.engine.batch_shard import WHOLE
from microforge.training.settings import EditSettings, OptimizerSettings
from microforge.training.stages.edit_batches import task_rows

#: Streams of more than one ``STREAM_LENGTH``.
LENGTHS = {"TRAJECTORY_NOISE": len(TASKS) * STREAM_LENGTH}


@pytest.mark.parametrize("streams", [StepStream, TensorStream])
def test_no_two_streams_share_a_number(streams: type[IntEnum]) -> None:
    spans = sorted((int(one), int(one) + LENGTHS.get(one.name, STREAM_LENGTH)) for one in streams)
    assert spans[0][0] >= STREAM_LENGTH  # below are the training steps themselves
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    assert len(spans) == len(streams.__members__)  # no alias


def test_fixed_seeds_are_distinct() -> None:
    assert len({int(one) for one in FixedSeed}) == len(FixedSeed.__members__)


def test_streams_that_caches_and_trained_weights_depend_on_have_not_moved() -> None:
    values = {one.name: int(one) for one in (*StepStream, *TensorStream, *FixedSeed)}
    assert values == {
        "LATENT_CACHE": 7_000_000,
        "JUDGED_SAMPLES": 8_000_000,
        "TASK_MIX": 9_000_000,
        "PROMPT_REWRITES": 10_000_000,
        "ENCODED_TRIPLE_CHOICE": 11_000_000,
        "ENCODED_TRIPLES": 12_000_000,
        "DISTILLATION_ROWS": 13_000_000,
        "REWARD_ROWS": 77_000_000,
        "REWRITE_ROWS": 88_000_000,
        "CLASSIFIER_CHECK": 2**32,
        "CLASSIFIER_CALIBRATION": 2**33,
        "TRAJECTORY_NOISE": 11_000_000,
        "FLOW_NOISE": 15_000_000,
        "SKIP_POSITION": 17_000_000,
        "START_NOISE": 19_000_000,
        "REWARD_NOISE": 77_000_000,
        "REWRITE_NOISE": 88_000_000,
        "EDIT_STRIP": 2_026,
        "CALIBRATION": 20_000,
        "PREVIEW": 40_000,
        "QUANTIZATION_QUALITY": 30_000,
        "UNSEEN_SCENES": 1_000_003,
        "STATISTICS": 1_000_033,
        "TOKENIZER_CORPUS": 20_240_607,
    }


def test_members_key_generators_as_the_numbers_they_stand_for() -> None:
    one, two = step_rng(3, StepStream.LATENT_CACHE), np.random.default_rng([3, 7_000_000])
    assert np.array_equal(one.random(4), two.random(4))


def test_rewritten_prompts_and_the_task_mix_of_step_0_come_from_different_generators(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers: list[int] = []

    def recorded(seed: int, number: int) -> np.random.Generator:
        numbers.append(int(number))
        return step_rng(seed, number)

    monkeypatch.setattr("microforge.data.world.explicit_prompts.step_rng", recorded)
    monkeypatch.setattr("microforge.training.stages.edit_batches.step_rng", recorded)
    sample_rewrites(2, seed=0)
    task_rows(EditSettings(OptimizerSettings(1e-3), batch=4), 0, 0, WHOLE)
    assert len(numbers) == 2 and numbers[0] != numbers[1]
