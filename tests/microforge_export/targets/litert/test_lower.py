"""LiteRT models: shared weights once, the same bytes every time, INT8, and a session without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from microforge.bundle.manifest import Size
from microforge.components.networks import tensor
from microforge.errors import BundleError, GraphLintError
from microforge_export.components.component import SourceComponent, trace

pytest.importorskip("litert_torch", reason="needs the extra litert-export")
pytest.importorskip("ai_edge_quantizer", reason="needs the extra litert-export")

from microforge_export.quantization.litert import LiteRTQuantizable, lower_all_int8
from microforge_export.recipes.int8_recipe import Host, Int8Recipe
from microforge_export.targets.litert.lower import LiteRTArtefacts, lower_all
from microforge_runtimes.engines.litert import LiteRTSession

C, WIDTH = 8, 128


class Denoiser(nn.Module):
    """Nearly all weights in one matrix; it serves every size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.down = nn.Linear(C, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, C)

    def forward(self, z: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.mix(self.up(z.flatten(2).transpose(1, 2)))
        return self.down(x).transpose(1, 2).reshape(z.shape), ids + 1


def denoisers() -> tuple[SourceComponent, SourceComponent]:
    torch.manual_seed(0)
    module = Denoiser().requires_grad_(False)

    def of_size(width: int) -> SourceComponent:
        z = tensor("z", 1, C, 1, width)
        ids = tensor("ids", 1, 3, dtype="int64")
        return SourceComponent(
            f"steps_{width}", "denoiser", Size(height=32, width=32 * width), module, (z, ids),
            (tensor("velocity", 1, C, 1, width), tensor("next", 1, 3, dtype="int64")),
        )  # fmt: skip

    return of_size(1), of_size(3)


@pytest.fixture(scope="module")
def lowered() -> LiteRTArtefacts:
    components = denoisers()
    return lower_all(components, {item.key: trace(item) for item in components})


def inputs(component: SourceComponent) -> dict[str, np.ndarray]:
    z = np.random.default_rng(0).normal(size=component.inputs[0].shape).astype(np.float32)
    return {"z": z, "ids": np.array([[1, 2, 3]])}


def expected(component: SourceComponent) -> np.ndarray:
    values = inputs(component)
    result: np.ndarray = component.module(*(torch.from_numpy(value) for value in values.values()))[0].numpy()
    return result


def test_sizes_are_signatures_of_one_file_that_stores_weights_once(
    lowered: LiteRTArtefacts, tmp_path: Path
) -> None:
    lowered.lint()
    files = lowered.write(tmp_path)
    assert len({entry.path for entry in files.files.values()}) == 1
    matrix = WIDTH * WIDTH * 4
    assert matrix < files.files["steps_1"].bytes < 2 * matrix
    for component in denoisers():
        memory = files.memory[component.key]
        assert memory.weights >= matrix and memory.arena is not None
        assert memory.arena >= 2 * component.inputs[0].shape[3] * WIDTH * 4
        path = tmp_path / files.files[component.key].path
        session = LiteRTSession(path, component.key, component.entry(), threads=1)
        result = session.run(inputs(component))
        np.testing.assert_allclose(result["velocity"], expected(component), atol=1e-5)
        assert result["next"].dtype == np.int64 and result["next"].tolist() == [[2, 3, 4]]
        session.close()
        with pytest.raises(ValueError, match="closed"):
            session.run(inputs(component))


def test_int8_stores_a_quarter_and_stays_close() -> None:
    component = denoisers()[0]
    programs = {component.key: trace(component)}
    host = Host(machine="unknown", instructions=(), threads=1)
    recipe = Int8Recipe(model="m", target="litert", host=host, schemes={"denoiser": {"*": "dynamic"}})
    first, second = (lower_all_int8([component], programs, recipe=recipe, inputs={}) for _ in range(2))
    assert first.models == second.models, "two builds give the same bytes"
    assert len(first.models["denoiser"]) < WIDTH * WIDTH * 2
    quantizable = LiteRTQuantizable.make(component, programs[component.key], (), Path())
    assert quantizable.groups() == {"matmul": ("weight-only", "dynamic")}
    with quantizable.candidate({"matmul": "dynamic"}) as candidate:
        velocity = candidate.session.run(inputs(component))["velocity"]
    error = np.abs(velocity - expected(component)).max()
    assert 0 < error < 0.05


def test_a_program_that_litert_cannot_express_is_refused_by_name() -> None:
    class Values(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            values: Tensor = torch.linalg.eigvals(latent).real
            return values

    latent = tensor("latent", 1, 4, 4)
    component = SourceComponent("odd", "vae_decoder", None, Values(), (latent,), (tensor("image", 1, 4),))
    with pytest.raises(GraphLintError, match="odd: litert-torch cannot convert it"):
        lower_all([component], {"odd": trace(component)})


def test_a_session_refuses_other_files_and_other_signatures(lowered: LiteRTArtefacts, tmp_path: Path) -> None:
    component = denoisers()[0]
    path = tmp_path / "model.tflite"
    path.write_bytes(b"not a model at all")
    with pytest.raises(BundleError, match="not a LiteRT model"):
        LiteRTSession(path, component.key, component.entry())
    path.write_bytes(lowered.models["denoiser"])
    with pytest.raises(BundleError, match="cannot load signature steps_9"):
        LiteRTSession(path, "steps_9", component.entry())
    with pytest.raises(BundleError, match="the manifest says"):
        LiteRTSession(path, "steps_3", component.entry())


def test_a_session_needs_no_torch() -> None:
    code = "import sys, microforge_runtimes.engines.litert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
