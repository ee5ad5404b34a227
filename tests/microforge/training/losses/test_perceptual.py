"""The random network is the same everywhere and frozen; LPIPS is the user's, never fetched."""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from microforge.errors import CheckpointError, MissingExtraError
from microforge.training.losses.perceptual import RandomFeatures, load_lpips

DIGEST = """
import hashlib, torch
torch.manual_seed({seed})
from microforge.training.losses.perceptual import RandomFeatures
digest = hashlib.sha256()
for _, buffer in RandomFeatures().named_buffers():
    digest.update(buffer.numpy().tobytes())
print(digest.hexdigest())
"""


def test_random_features_have_the_same_weights_in_every_process() -> None:
    torch.manual_seed(1234)
    digest = hashlib.sha256()
    for _, buffer in RandomFeatures().named_buffers():
        digest.update(buffer.numpy().tobytes())
    other = subprocess.run(
        [sys.executable, "-c", DIGEST.format(seed=99)], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest.hexdigest()


def test_random_features_leave_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    RandomFeatures()
    assert torch.equal(torch.rand(1), expected)


def test_random_features_are_frozen_and_in_no_state_dict() -> None:
    holder = nn.Sequential(RandomFeatures())
    assert not holder.state_dict() and not list(holder.parameters())
    target = torch.rand(1, 3, 32, 32, requires_grad=True)
    output = torch.rand(1, 3, 32, 32, requires_grad=True)
    holder[0](output, target).sum().backward()
    assert target.grad is None and output.grad is not None and bool(output.grad.any())


def test_random_features_keep_their_size_through_the_scales() -> None:
    image = torch.rand(1, 3, 40, 72)
    features = RandomFeatures().features(image)
    assert [tuple(f.shape) for f in features] == [
        (1, 16, 40, 72), (1, 32, 20, 36), (1, 64, 10, 18), (1, 128, 5, 9),
    ]  # fmt: skip
    for feature in features:
        assert torch.allclose(feature.square().sum(1), torch.ones(()), atol=1e-4)


def test_random_features_take_sides_that_do_not_halve() -> None:
    assert RandomFeatures()(torch.rand(2, 3, 33, 35), torch.rand(2, 3, 33, 35)).shape == (2,)


def test_load_lpips_without_the_package_says_what_to_install() -> None:
    if importlib.util.find_spec("lpips") is not None:
        pytest.skip("lpips is installed")
    with pytest.raises(MissingExtraError, match="pip install lpips, or set lpips to 0"):
        load_lpips("cpu")


class _Lpips(nn.Module):
    """Stands in for lpips.LPIPS: the same call, the same shape of answer."""

    def __init__(self, net: str, verbose: bool) -> None:
        super().__init__()
        assert net == "vgg" and not verbose
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, in0: Tensor, in1: Tensor, normalize: bool) -> Tensor:
        assert normalize, "images are in [0, 1]"
        return self.scale * (in0 - in1).square().mean((1, 2, 3), keepdim=True)


def _install_lpips(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Put a package lpips beside a torchvision that names its VGG-16."""
    lpips = types.ModuleType("lpips")
    lpips.__spec__ = importlib.machinery.ModuleSpec("lpips", None)
    lpips.LPIPS = _Lpips  # type: ignore[attr-defined]
    models = types.ModuleType("torchvision.models")
    weights = types.SimpleNamespace(url="https://example.org/vgg16-397923af.pth")
    models.VGG16_Weights = types.SimpleNamespace(IMAGENET1K_V1=weights)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(cache))


def test_load_lpips_never_fetches_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_lpips(monkeypatch, tmp_path)
    with pytest.raises(
        CheckpointError, match=r"checkpoints/vgg16-397923af.pth: download https://example.org"
    ):
        load_lpips("cpu")


def test_load_lpips_gives_a_frozen_distance_per_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install_lpips(monkeypatch, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/vgg16-397923af.pth").touch()
    image = torch.rand(3, 3, 8, 8)
    output = (image + 0.1).requires_grad_()
    distance = load_lpips("cpu")(output, image)
    assert distance.shape == (3,) and torch.allclose(distance, torch.full((3,), 0.01), atol=1e-5)
    distance.sum().backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
