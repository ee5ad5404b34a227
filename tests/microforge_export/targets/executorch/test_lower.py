"""ExecuTorch programs: one delegate or a named reason, weights stored once, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microforge.bundle.files import load_bundle, sha256_file
from microforge.bundle.manifest import Size
from microforge.components.networks import tensor
from microforge.errors import GraphLintError
from microforge_export.components.component import SourceComponent, trace
from microforge_export.targets.base import TargetFiles
from microforge_export.targets.executorch.delegation import live_bytes
from microforge_export.targets.executorch.lower import lower_all
from microforge_runtimes.engines.executorch import ExecutorchSession

L, E, C, WIDTH = 4, 8, 2, 128


class Denoiser(nn.Module):
    """Nearly all weights in one matrix; it serves every size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.down = nn.Linear(C, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, C)

    def forward(self, z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        x = self.mix(self.up(z.flatten(2).transpose(1, 2))) * t + text.mean((1, 2))
        velocity: Tensor = self.down(x).transpose(1, 2).reshape(z.shape)
        return velocity


class Decoder(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, latent: Tensor) -> Tensor:
        if self.kind == "softmax":
            return torch.softmax(latent * 2, 1) + 1
        if self.kind == "cumsum":
            return torch.cumsum(latent * 2, 1) + 1
        return latent * (latent > 0).nonzero().sum()  # the shape of nonzero() depends on values


def denoisers() -> tuple[SourceComponent, SourceComponent]:
    torch.manual_seed(0)
    module = Denoiser().requires_grad_(False)

    def of_size(width: int) -> SourceComponent:
        z = tensor("z", 1, C, 1, width)
        inputs = (z, tensor("t", 1), tensor("text", 1, L, E))
        size = Size(height=32, width=32 * width)
        return SourceComponent(
            f"steps_{width}", "denoiser", size, module, inputs, (tensor("velocity", 1, C, 1, width),)
        )

    return of_size(1), of_size(3)


def written(folder: Path, *components: SourceComponent) -> TargetFiles:
    artefacts = lower_all(components, {item.key: trace(item) for item in components})
    artefacts.lint()
    return artefacts.write(folder)


def decoder(kind: str) -> SourceComponent:
    size, shape = Size(height=32, width=64), (1, 3, 32, 64)
    return SourceComponent(
        "pixels", "vae_decoder", size, Decoder(kind), (tensor("latent", *shape),), (tensor("image", *shape),)
    )


def test_sizes_of_a_denoiser_are_methods_of_one_program_that_stores_weights_once(tmp_path: Path) -> None:
    narrow, wide = denoisers()
    target = written(tmp_path, narrow, wide)
    assert set(target.files) == {"steps_1", "steps_3"} and target.files["steps_1"] == target.files["steps_3"]
    assert target.files["steps_1"].path == "executorch/denoiser.pte"
    matrix = 4 * WIDTH * WIDTH
    assert matrix < target.files["steps_1"].bytes < 1.7 * matrix
    generator = np.random.default_rng(0)
    for component in (narrow, wide):
        inputs = {
            spec.name: generator.normal(size=spec.shape).astype(np.float32) for spec in component.inputs
        }
        path = tmp_path / target.files[component.key].path
        session = ExecutorchSession(path, component.key, component.entry())
        expected = component.evaluate(inputs)["velocity"].astype(np.float32)
        np.testing.assert_allclose(session.run(inputs)["velocity"], expected, rtol=1e-4, atol=1e-5)


def test_the_miniatures_components_are_one_delegate_each(bundle: Path) -> None:
    target = load_bundle(bundle).manifest.targets["executorch"]
    assert {item.delegates for item in target.coverage.values()} == {1}
    outside = {key: item.outside for key, item in target.coverage.items() if item.outside}
    assert list(outside) == ["text_encoder"] and list(outside["text_encoder"]) == ["aten.embedding.default"]
    counts = [(item.delegated, item.operators) for item in target.coverage.values()]
    assert sum(counts[0]) and target.delegated_fraction == pytest.approx(
        sum(delegated for delegated, _ in counts) / sum(total for _, total in counts), abs=1e-4
    )
    assert sum(target.operators.values()) == sum(total for _, total in counts)


@pytest.mark.parametrize(
    ("kind", "operator", "reason"),
    [("softmax", "aten._softmax.default", "dim must be the last dim"), ("cumsum", "aten.cumsum.default", "has no such")],
)  # fmt: skip
def test_an_operator_outside_delegates_is_named_with_its_reason(
    tmp_path: Path, kind: str, operator: str, reason: str
) -> None:
    coverage = written(tmp_path, decoder(kind)).coverage["pixels"]
    assert coverage.delegates == 2 and coverage.delegated == coverage.operators - 1
    assert list(coverage.outside) == [operator] and reason in coverage.outside[operator]


def test_a_shape_that_depends_on_values_is_refused_by_component() -> None:
    component = decoder("nonzero")
    with pytest.raises(GraphLintError, match=r"^pixels: "):
        lower_all([component], {"pixels": trace(component)}).lint()


def test_memory_is_weights_and_activations_with_the_files_own_plan(bundle: Path) -> None:
    manifest = load_bundle(bundle).manifest
    for key, memory in manifest.targets["executorch"].memory.items():
        component = manifest.components[key]
        ends = sum(4 * int(np.prod(spec.shape)) for spec in (*component.inputs, *component.outputs))
        assert memory.arena is not None and ends <= memory.arena < memory.activations
        assert memory.peak == memory.weights + memory.activations
        assert memory.weights < manifest.targets["executorch"].files[key].bytes


def test_live_bytes_is_the_most_at_one_time() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a = x + 1
            b = a * 2
            c = a + b  # a, b and c are alive here, and nothing more later
            return torch.neg(c) * 3

    graph = torch.export.export(Sum(), (torch.ones(5),)).graph
    assert live_bytes(graph) == 3 * 4 * 5


LOWER = """
import sys
from pathlib import Path
from microforge_export.providers.microforge import read_model
from microforge_export.components.component import trace
from microforge_export.targets.executorch.lower import lower_all
model = read_model(Path(sys.argv[1]))
components = model.provider.components((model.native_size,), ("generate",))
chosen = [item for item in components if item.role in sys.argv[3:]]
lower_all(chosen, {item.key: trace(item) for item in chosen}).write(Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    "roles",
    [
        ("text_encoder",),
        pytest.param(("denoiser", "vae_decoder", "vae_encoder"), marks=pytest.mark.slow),
    ],
    ids=lambda roles: roles[0],
)
def test_another_process_writes_the_same_bytes(
    bundle: Path, checkpoint: Path, tmp_path: Path, roles: tuple[str, ...]
) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    words = [sys.executable, "-c", LOWER, str(checkpoint), str(tmp_path), *roles]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for role in roles:
        relative = f"executorch/{role}.pte"
        assert sha256_file(tmp_path / relative) == sha256_file(bundle / relative), role
