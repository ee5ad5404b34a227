"""The classifier behind KID: it learns, the weights that ship know the world, damaged ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from microforge.data.world.captions import evaluation_prompts
from microforge.data.world.scenes import COLORS, HELD_OUT, SHAPES, sample_scene
from microforge.errors import CheckpointError, DataError
from microforge.evaluation import classifier_training
from microforge.evaluation import train_classifier as command
from microforge.evaluation.classifier import (
    FEATURES,
    HEADS,
    SIDE,
    WEIGHTS,
    Classifier,
    exact_accuracy,
    load_classifier,
    predictions,
    to_file,
)
from microforge.evaluation.classifier_training import (
    ClassifierSettings,
    augment,
    gaussian_blur,
    sample_batch,
    scene_labels,
    train_classifier,
    unseen_accuracy,
)
from microforge.evaluation.generation import to_float_images, true_renders
from microforge.io.console import exit_code

MINIATURE = ClassifierSettings(steps=12, batch=12, calibration=2)


@pytest.fixture(scope="module")
def shipped() -> Classifier:
    return load_classifier()


def test_the_shipped_weights_are_small_and_named_by_their_hash(shipped: Classifier) -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    assert sum(parameter.numel() for parameter in shipped.parameters()) < 300_000
    assert len(shipped.identity) == 12 and Classifier().identity == ""
    assert not shipped.training and not any(p.requires_grad for p in shipped.parameters())


def test_the_shipped_weights_are_accurate_on_unseen_renders(shipped: Classifier) -> None:
    """The limits are a few points below docs/evaluation.md, because these are fewer renders."""
    shares = unseen_accuracy(shipped, batches=6)
    for name, least in (("shape", 0.97), ("color", 0.97), ("count", 0.97), ("background", 0.99)):
        assert shares[name] >= least, (name, shares[name])


def test_the_shipped_weights_read_what_a_prompt_asks_for(shipped: Classifier) -> None:
    prompts = [one for one in evaluation_prompts(240, 3) if all(item.color for item in one.objects)]
    chosen = predictions(shipped(to_float_images(true_renders(160, 160)(prompts, 0))))
    for key, names in (("shape", SHAPES), ("color", tuple(COLORS))):
        wanted = [{getattr(item, key) for item in one.objects} for one in prompts]
        predicted = [{names[i] for i in row.nonzero().flatten()} for row in chosen[key]]
        assert sum(a == b for a, b in zip(wanted, predicted, strict=True)) > 0.9 * len(prompts), key


def test_features_have_one_width_for_any_image_size(shipped: Classifier) -> None:
    for height, width in ((64, 64), (33, 200), (256, 256)):
        features = shipped.features(torch.rand(2, 3, height, width))
        assert features.shape == (2, FEATURES) and bool(features.isfinite().all())
    images = torch.rand(2, 3, SIDE, SIDE)
    alone, together = shipped.features(images[1:]), shipped.features(images)[1:]
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-4), "no image depends on another"


def test_features_notice_a_change_of_content_more_than_a_larger_canvas(shipped: Classifier) -> None:
    prompts = evaluation_prompts(24, 1)
    small, large, other = (
        shipped.features(to_float_images(true_renders(side, side)(prompts, seed)))
        for side, seed in ((96, 0), (192, 0), (96, 500))
    )
    assert float((small - large).norm(dim=1).mean()) < 0.5 * float((small - other).norm(dim=1).mean())


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3)])
def test_images_of_another_shape_are_refused(shipped: Classifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
        shipped.features(torch.zeros(shape))


def test_training_learns_and_is_repeatable() -> None:
    losses: list[float] = []
    first = train_classifier(MINIATURE, lambda step, loss: losses.append(loss))
    again = train_classifier(MINIATURE)
    assert len(losses) == 12 and sum(losses[-3:]) < 0.85 * sum(losses[:3])
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_features_have_one_length_and_no_direction_in_common(shipped: Classifier) -> None:
    settings = ClassifierSettings(batch=32)
    features = torch.cat([shipped.features(sample_batch(settings, 10_000 + i)[0]) for i in (0, 1)])
    assert torch.allclose(features.square().mean(1), torch.ones(64), atol=1e-4)
    assert float(features.mean(0).square().mean()) < 0.1, "different scenes point different ways"


def test_labels_describe_the_scene() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(20)]
    labels = scene_labels(scenes)
    for index, scene in enumerate(scenes):
        shapes = {SHAPES[i] for i in labels["shape"][index].nonzero().flatten()}
        assert shapes == {item.shape for item in scene.objects}
        colors = {tuple(COLORS)[i] for i in labels["color"][index].nonzero().flatten()}
        assert colors == {item.color for item in scene.objects}
        assert int(labels["count"][index]) + 1 == len(scene.objects)
        assert tuple(COLORS)[int(labels["background"][index])] == scene.background


def test_training_shows_seen_and_held_out_compositions() -> None:
    _, labels = sample_batch(ClassifierSettings(batch=200), 0)
    single = (labels["count"] == 0).nonzero().flatten()
    pairs = {
        (tuple(COLORS)[int(labels["color"][i].nonzero())], SHAPES[int(labels["shape"][i].nonzero())])
        for i in single
    }
    assert pairs & HELD_OUT and pairs - HELD_OUT


def test_augmentation_is_mild_and_touches_about_half_of_the_images() -> None:
    images = torch.rand(64, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    untinted = replace(MINIATURE, tint=0.0)
    changed = augment(images, untinted, 3)
    same = (changed == images).flatten(1).all(1)
    assert 4 < int(same.sum()) < 32, "a quarter is neither blurred nor noisy"
    assert float((changed - images).square().mean().sqrt()) < 0.1
    assert (
        torch.equal(changed, augment(images, untinted, 3))
        and 0 <= float(changed.min()) < float(changed.max()) <= 1
    )


def test_blur_keeps_flat_images_and_smooths_edges() -> None:
    flat = torch.full((1, 3, 12, 10), 0.3)
    assert torch.allclose(gaussian_blur(flat, 1.0), flat, atol=1e-6)
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1.0
    row = gaussian_blur(edge, 1.0)[0, 0, 4]
    assert bool((row.diff() >= 0).all()) and 0.0 < float(row[3]) < 0.5 < float(row[4]) < 1.0


def test_exact_accuracy_counts_whole_predictions() -> None:
    class Fixed(Classifier):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {
                name: F.one_hot(torch.tensor([0, 1]), count).float() - 0.5 for name, count in HEADS.items()
            }

    labels = {name: F.one_hot(torch.tensor([0, 0]), HEADS[name]).bool() for name in ("shape", "color")}
    labels |= {"count": torch.tensor([0, 1]), "background": torch.tensor([2, 3])}
    shares = exact_accuracy(Fixed(), torch.zeros(2, 3, 4, 4), labels)
    assert shares == {"shape": 0.5, "color": 0.5, "count": 1.0, "background": 0.0}


def test_weights_survive_the_file_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier().eval()
    path = tmp_path / "c.safetensors"
    path.write_bytes(to_file(classifier))
    assert load(path.read_bytes())["heads.shape.weight"].dtype == torch.float16
    images = torch.rand(4, 3, 64, 64)
    assert torch.allclose(load_classifier(path).features(images), classifier.features(images), atol=5e-3)
    path.write_bytes(to_file(Classifier()))
    assert load_classifier(path).identity != load_classifier().identity


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "damaged or truncated"),
        (lambda data: b"", "damaged or truncated"),
        (lambda data: save({"body.0.0.weight": torch.zeros(2)}), "does not match this network"),
        (lambda data: save(load(data) | {"extra": torch.zeros(2)}), "does not match this network"),
        (lambda data: save(load(data) | {"heads.count.bias": torch.zeros(5)}), "does not match this network"),
    ],
    ids=["half", "empty", "missing", "extra", "shape"],
)
def test_bad_weights_are_refused_by_name(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "c.safetensors"
    assert callable(damage)
    path.write_bytes(damage(WEIGHTS.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_classifier(path)
    assert "c.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_classifier(tmp_path / "none.safetensors")


def test_the_command_trains_writes_and_keeps_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_training, "calibrate", lambda classifier, settings: classifier)
    monkeypatch.setattr(
        classifier_training, "unseen_accuracy", lambda written: unseen_accuracy(written, batches=1, batch=8)
    )
    out = tmp_path / "new" / "c.safetensors"
    assert exit_code(command.app, ["--out", str(out), "--steps", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["sha256"] == load_classifier(out).identity and set(printed["accuracy"]) == set(HEADS)
    before = out.read_bytes()
    assert exit_code(command.app, ["--out", str(out), "--steps", "1"]) == 2 and out.read_bytes() == before
    assert "already exists" in capsys.readouterr().err
