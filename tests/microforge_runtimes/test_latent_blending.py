"""The numpy rules of the tasks that take an image are torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from microforge import latent_blending as torch_rules
from microforge.bundle.entry import FileEntry
from microforge.bundle.reference_model import Facts, driving
from microforge.bundle.sampling import LatentSpace
from microforge.errors import SpecError
from microforge.sampling import guided, guided_edit
from microforge.tokenizer import TASK_IDS
from microforge_runtimes.latent_blending import (
    after_step,
    check_mask,
    composited,
    latent_mask,
    masked,
    preserve_source,
)
from microforge_runtimes.sampler import CLEAN, weighted_sum


def _weights(task: str, scales: dict[str, float]) -> list[float]:
    """The branch weights of a guided model."""
    facts = Facts(
        tokenizer=FileEntry(path="t", sha256="0" * 64, bytes=1), length=8, pad=0, bos=1, eos=2, prefixes=TASK_IDS,
        timesteps=(1.0, 0.0), guidance=(3.5, 1.5), preserve_distances=None,
        latent=LatentSpace(channels=1, downsample=1, mean=(0.0,), std=(1.0,)), tasks=("generate", "edit"),
        inputs=frozenset(),
    )  # fmt: skip
    return [branch.weight.value(scales) for branch in driving(facts).tasks[task].branches]


def test_weighted_branches_are_torchs_guidance() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(1, 4, 2, 2)).astype(np.float32) for _ in range(3)]
    full, source_only, empty = (torch.from_numpy(part) for part in parts)
    for text, image in ((3.5, 1.5), (1.0, 1.0)):
        weights = _weights("edit", {"text": text, "image": image})
        expected = guided_edit(full, source_only, empty, text, image).numpy()
        np.testing.assert_allclose(weighted_sum(zip(weights, parts, strict=True)), expected, atol=1e-6)
        weights = _weights("generate", {"text": text, "image": image})
        mixed = weighted_sum(zip(weights, (parts[0], parts[2]), strict=True))
        np.testing.assert_allclose(mixed, guided(full, empty, text).numpy(), atol=1e-6)
    assert _weights("edit", {"text": 1.0, "image": 1.0}) == [1.0, 0.0, 0.0], (
        "branches of weight 0 are left out"
    )


def test_the_latent_mask_has_a_cell_for_one_pixel() -> None:
    mask = np.zeros((1, 1, 64, 96), np.float32)
    mask[0, 0, 31, 32] = 1
    np.testing.assert_array_equal(latent_mask(mask, 32)[0, 0], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(latent_mask(mask, 32), F.max_pool2d(torch.from_numpy(mask), 32).numpy())


def test_preserved_latents_have_the_noise_level_of_the_step_and_are_the_images_own_in_the_end() -> None:
    rng = np.random.default_rng(1)
    latent, known, noise = (rng.normal(size=(1, 2, 1, 2)).astype(np.float32) for _ in range(3))
    cells = np.array([[[[1.0, 0.0]]]], np.float32)
    after = after_step(known, noise, cells)
    assert after is not None and after_step(known, noise) is None
    twin = torch_rules.after_step(torch.from_numpy(known), torch.from_numpy(noise), torch.from_numpy(cells))
    assert twin is not None
    for t in (0.0, 0.25, 0.7, 1.0):
        blended = after(latent, (1.0 - t, t))
        np.testing.assert_array_equal(blended[..., 0], latent[..., 0])
        np.testing.assert_allclose(blended, twin(torch.from_numpy(latent), t).numpy(), atol=1e-6)
    np.testing.assert_array_equal(after(latent, CLEAN)[..., 1], known[..., 1])


def test_preserve_source_is_torchs_and_acts_after_the_last_step_alone() -> None:
    rng = np.random.default_rng(3)
    known = rng.normal(size=(1, 4, 6, 6)).astype(np.float32)
    latent = known + np.float32(0.3) * rng.normal(size=known.shape).astype(np.float32)
    latent[..., 2:4, 2:4] += 2.0
    expected = torch_rules.preserve_source(
        torch.from_numpy(latent), torch.from_numpy(known), (0.5, 0.9)
    ).numpy()
    np.testing.assert_allclose(preserve_source(latent, known, (0.5, 0.9)), expected, atol=1e-6)
    after = after_step(known, known, None, (0.5, 0.9))
    assert after is not None
    np.testing.assert_array_equal(after(latent, (0.75, 0.25)), latent)
    np.testing.assert_array_equal(after(latent, None), latent)
    np.testing.assert_array_equal(after(latent, CLEAN), preserve_source(latent, known, (0.5, 0.9)))


def test_masked_pixels_are_grey_and_what_is_outside_stays_bit_for_bit() -> None:
    image = np.random.default_rng(2).random((1, 3, 4, 4), dtype=np.float32)
    mask = np.zeros((1, 1, 4, 4), np.float32)
    mask[..., :2] = 1
    grey = masked(image, mask, 0.5)
    assert (grey[..., :2] == 0.5).all() and np.array_equal(grey[..., 2:], image[..., 2:])
    assert grey.dtype == np.float32
    np.testing.assert_array_equal(composited(grey, image, mask), grey)


def test_check_mask_refuses_another_size_and_an_empty_one() -> None:
    with pytest.raises(SpecError, match=r"mask is \(1, 1, 2, 2\); it must be \(1, 1, 4, 4\)"):
        check_mask(np.ones((1, 1, 2, 2), np.float32), 4, 4)
    with pytest.raises(SpecError, match="mask is all zero"):
        check_mask(np.zeros((1, 1, 4, 4), np.float32), 4, 4)
