"""Random streams: which random numbers belong to which use, so that no two uses share a sequence. No torch.

A generator is keyed by the run's seed and a number: of a training step, or of a part of a data set. Every other use
than the training steps themselves adds a member of ``StepStream`` or ``TensorStream`` to its number and so has numbers of
its own. The values are part of what caches and trained weights depend on: add members, never change one.

The two classes may repeat each other's values, because numpy and torch generators are keyed differently: numpy by
``[seed, number]``, torch by ``[seed, number, 1]``.
"""

from __future__ import annotations

from enum import IntEnum, unique

#: Numbers that each stream has: steps of a run, or parts of a data set.
STREAM_LENGTH = 1_000_000


@unique
class StepStream(IntEnum):
    """Offsets to the step number of numpy generators (``data.order.step_rng``, ``data.edit_examples.task_rng``)."""

    LATENT_CACHE = 7_000_000  # scenes and captions of each part of the latent cache
    JUDGED_SAMPLES = 8_000_000  # reward: prompts of the samples, and the seeds of their noise
    TASK_MIX = 9_000_000  # edit: the task of each row, and what the row drops
    PROMPT_REWRITES = 10_000_000  # rewrite: ambiguous prompts and their rewritten form
    ENCODED_TRIPLE_CHOICE = 11_000_000  # edit: the encoded examples that a step takes
    ENCODED_TRIPLES = 12_000_000  # edit: the examples that are encoded once
    DISTILLATION_ROWS = 13_000_000  # distillation: the task and the trajectory of each row
    REWARD_ROWS = 77_000_000  # reward: the samples that a step takes
    REWRITE_ROWS = 88_000_000  # rewrite: the samples that a step takes
    CLASSIFIER_CHECK = 2**32  # unseen renders that the classifier is judged on
    CLASSIFIER_CALIBRATION = 2**33  # unseen renders that its features are standardised on


@unique
class TensorStream(IntEnum):
    """Offsets to the step number of torch generators (``training.engine.state.step_generator``)."""

    TRAJECTORY_NOISE = (
        11_000_000  # distillation: noise of cached trajectories; each task has ``STREAM_LENGTH`` numbers
    )
    FLOW_NOISE = 15_000_000  # distillation: noise and times of the rows with the flow loss
    SKIP_POSITION = 17_000_000  # distillation: where in its segment a target of ``skip`` starts
    START_NOISE = 19_000_000  # distillation: noise that is added to the start of segments
    REWARD_NOISE = 77_000_000
    REWRITE_NOISE = 88_000_000


@unique
class FixedSeed(IntEnum):
    """Seeds of data that stays the same whatever seed the user chooses."""

    EDIT_STRIP = 2_026  # the image strip of edits in the documentation
    CALIBRATION = 20_000  # prompts and noise that INT8 ranges are measured on
    PREVIEW = 40_000  # prompts and noise that the preview of unfinished samples is fitted to
    QUANTIZATION_QUALITY = 30_000  # prompts and noise that quantized components are judged by
    UNSEEN_SCENES = 1_000_003  # scenes that training never shows: sample sheets, and the reference of KID
    STATISTICS = 1_000_033  # images that the latents' mean and deviation are measured on
    TOKENIZER_CORPUS = 20_240_607
