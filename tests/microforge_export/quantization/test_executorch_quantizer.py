"""INT8 for ExecuTorch: one delegate still, near fp32 in the shipped runtime, small, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from microforge.bundle.files import load_bundle, sha256_file
from microforge.bundle.manifest import Role, Size, TensorSpec
from microforge.components.networks import tensor
from microforge.errors import GraphLintError, SpecError
from microforge_export.build.builder import build
from microforge_export.checks.golden import Array
from microforge_export.checks.parity import psnr_db
from microforge_export.checks.verify import verify
from microforge_export.components.component import SourceComponent, trace
from microforge_export.providers.microforge import read_model
from microforge_export.quantization.executorch import ExecutorchQuantizable, lower_all_int8
from microforge_export.quantization.executorch_quantizer import per_row, quantize
from microforge_export.recipes.build_recipe import make_recipe
from microforge_export.recipes.int8_recipe import Host, Int8Recipe, Scheme
from microforge_runtimes.engines.executorch import ExecutorchSession

WORDS, LENGTH, WIDTH = 300, 6, 64


class Mixer(nn.Module):
    """Three layers of which two read one tensor; that shared tensor is what partitioning fails on."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.gate(x)) * self.value(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Mixer() for _ in range(2))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tokens(ids) * mask.unsqueeze(-1)
        for block in self.blocks:
            x = x + block(x)
        text = self.last(x)
        return text, text[:, 0]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.out = nn.Conv2d(4, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(self.out(F.silu(self.head(latent))), 4)


def encoder() -> SourceComponent:
    torch.manual_seed(0)
    return SourceComponent(
        "words", "text_encoder", None, Encoder().requires_grad_(False),
        (tensor("ids", 1, LENGTH, dtype="int64"), tensor("mask", 1, LENGTH)),
        (tensor("text", 1, LENGTH, WIDTH), tensor("pooled", 1, WIDTH)),
    )  # fmt: skip


def decoder(*widths: int) -> tuple[SourceComponent, ...]:
    torch.manual_seed(0)
    module = Decoder().requires_grad_(False)
    return tuple(
        SourceComponent(
            f"pixels_{width}", "vae_decoder", Size(height=32, width=8 * width), module,
            (tensor("latent", 1, 4, 8, width),), (tensor("image", 1, 3, 32, 4 * width),),
        )
        for width in widths
    )  # fmt: skip


def some_inputs(component: SourceComponent, count: int = 3) -> list[dict[str, Array]]:
    generator = np.random.default_rng(0)

    def values(spec: TensorSpec) -> Array:
        if spec.dtype == "int64":
            return generator.integers(0, WORDS, spec.shape)
        return generator.normal(size=spec.shape).astype(np.float32)

    return [{spec.name: values(spec) for spec in component.inputs} for _ in range(count)]


def recipe(schemes: Mapping[Role, Mapping[str, Scheme]]) -> Int8Recipe:
    host = Host(machine="none", instructions=(), threads=1)
    return Int8Recipe(model="miniature", target="executorch", host=host, schemes=schemes)


def quantizable_of(component: SourceComponent, inputs: bool = True) -> ExecutorchQuantizable:
    recorded = some_inputs(component) if inputs else ()
    return ExecutorchQuantizable.make(component, trace(component), recorded, Path())


def psnr(component: SourceComponent, session: ExecutorchSession) -> float:
    """The worst output of the engine against torch."""
    return min(
        psnr_db(reference, session.run(inputs)[name])
        for inputs in some_inputs(component)
        for name, reference in component.evaluate(inputs).items()
    )


def test_groups_are_named_by_operator_and_module() -> None:
    assert quantizable_of(encoder()).groups() == {
        "gather tokens": ("weight-only",),
        "matmul blocks": ("dynamic", "static"),
        "matmul last": ("dynamic", "static"),
    }
    assert quantizable_of(decoder(8)[0], inputs=False).groups() == {"conv head": (), "conv out": ()}


@pytest.mark.parametrize(("scheme", "least"), [("dynamic", 40), ("static", 27)])
def test_a_quantized_component_is_one_delegate_small_and_near_fp32(
    scheme: Scheme, least: float, tmp_path: Path
) -> None:
    component = encoder()
    inputs = {"words": some_inputs(component)}
    schemes: dict[str, Scheme] = {"*": scheme, "gather tokens": "weight-only"}
    artefacts = lower_all_int8(
        [component], {"words": trace(component)}, recipe=recipe({"text_encoder": schemes}), inputs=inputs
    )
    artefacts.lint()
    assert artefacts.coverage["words"].delegates == 1
    assert set(artefacts.coverage["words"].outside) <= {
        "aten.embedding.default", "dim_order_ops._to_dim_order_copy.default",
    }  # fmt: skip
    assert artefacts.weights["words"] < 0.32 * component.weight_bytes()
    path = tmp_path / artefacts.write(tmp_path).files["words"].path
    assert path.stat().st_size < 0.45 * component.weight_bytes()
    assert least < psnr(component, ExecutorchSession(path, "words", component.entry())) < 70


def test_sizes_share_their_int8_weights_and_are_written_alike_twice(tmp_path: Path) -> None:
    parts = decoder(8, 12)
    inputs = {item.key: some_inputs(item) for item in parts}
    chosen = recipe({"vae_decoder": {"conv out": "static"}})
    hashes, sizes = [], []
    for name, components in (("one", parts), ("two", parts), ("alone", parts[:1])):
        programs = {item.key: trace(item) for item in components}
        (tmp_path / name).mkdir()
        artefacts = lower_all_int8(components, programs, recipe=chosen, inputs=inputs).write(tmp_path / name)
        entry = artefacts.files["pixels_8"]
        hashes.append(sha256_file(tmp_path / name / entry.path))
        sizes.append(entry.bytes)
        for item in components:
            session = ExecutorchSession(tmp_path / name / entry.path, item.key, item.entry())
            assert 30 < psnr(item, session) < 70
    assert hashes[0] == hashes[1]
    weights = 48 * 32 * 9  # in int8
    assert sizes[0] - sizes[2] < weights + 8_000, "a second copy of the weights would be above"


def test_small_weights_keep_all_their_levels() -> None:
    component = encoder()
    with torch.no_grad():
        for parameter in component.module.last.parameters():  # type: ignore[union-attr]
            parameter.mul_(1e-3)
    program = quantize(component, trace(component), {"matmul last": "dynamic"}, ())
    inputs = some_inputs(component, 1)[0]
    expected = component.evaluate(inputs)["text"]
    result = program.module()(*(torch.from_numpy(inputs[spec.name]) for spec in component.inputs))[0].numpy()
    assert psnr_db(expected, result) > 40


def test_rows_of_a_table_have_scales_of_their_own() -> None:
    table = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.0], [1e-4], [1.0], [3.0], [1e4]])  # fmt: skip
    values, scales = per_row(table)
    assert values.dtype == torch.int8 and values.abs().max() == 127 and scales.shape == (5, 1)
    assert ((values * scales - table).abs() <= 0.5001 * scales).all()


@pytest.mark.parametrize(
    ("schemes", "words"),
    [
        ({"matmul blocks.ffn": "dynamic"}, "names an operator group 'matmul blocks.ffn'; this model has: gather tokens"),
        ({"gather tokens": "static"}, "'gather tokens' cannot be 'static'; allowed: fp32, weight-only"),
        ({"matmul blocks": "weight-only"}, "'matmul blocks' cannot be 'weight-only'; allowed: fp32, dynamic, static"),
    ],
)  # fmt: skip
def test_what_a_component_cannot_have_is_refused_by_group(schemes: dict[str, Scheme], words: str) -> None:
    component = encoder()
    with pytest.raises(SpecError, match=words):
        quantize(component, trace(component), schemes, some_inputs(component))
    with pytest.raises(SpecError, match=words.split(";")[0]):
        lower_all_int8(
            [component], {"words": trace(component)}, recipe=recipe({"text_encoder": schemes}),
            inputs={"words": some_inputs(component)},
        )  # fmt: skip


def test_static_ranges_need_recorded_inputs() -> None:
    component = encoder()
    with pytest.raises(SpecError, match="static quantization needs recorded inputs"):
        quantize(component, trace(component), {"matmul last": "static"}, ())


def test_a_program_that_cannot_be_quantized_is_refused_with_its_component() -> None:
    component = encoder()
    unknown = {**some_inputs(component, 1)[0], "ids": np.full((1, LENGTH), WORDS)}
    quantizable = ExecutorchQuantizable(component, trace(component), [unknown])
    with pytest.raises(GraphLintError, match=r"^words: "):
        quantizable.quantized({"matmul last": "static"})


def test_a_trial_runs_in_the_engine_and_knows_its_bytes() -> None:
    quantizable = quantizable_of(encoder())
    with quantizable.candidate({}) as plain, quantizable.candidate({"matmul blocks": "dynamic"}) as quantized:
        assert plain.bytes - 3 * 2 * 3 * WIDTH * WIDTH < quantized.bytes < 0.8 * plain.bytes
        inputs = some_inputs(quantizable.component, 1)[0]
        exact, near = (item.session.run(inputs)["text"] for item in (plain, quantized))
        assert 40 < psnr_db(exact, near) < 70


RECIPE = """
model = "miniature"
target = "executorch"

[host]
machine = "none"
instructions = []
threads = 1

[limits]
images = 2
image_psnr_median_db = 20.0
image_psnr_worst_db = 15.0

[calibration]
samples = 2
inputs = 8

[schemes.text_encoder]
"*" = "dynamic"

[schemes.denoiser]
"*" = "dynamic"

[schemes.vae_decoder]
"*" = "static"
"""


@pytest.mark.slow
def test_a_build_applies_a_recipe_and_records_what_it_measured(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    chosen = make_recipe(
        target="executorch", precision="int8", sizes=(), tasks="generate", recipes=[tmp_path / "recipe.toml"]
    )
    build(chosen, lambda: read_model(checkpoint), tmp_path / "small.mfb")
    bundle = load_bundle(tmp_path / "small.mfb")
    target = bundle.manifest.targets["executorch"]
    assert target.precision == "int8"
    assert {item.delegates for item in target.coverage.values()} == {1}
    (quality,) = target.quality.values()
    assert 20 < quality.psnr_worst_db < 80 and 0.9 < quality.guidance_norm_ratio < 1.1
    assert not verify(bundle).problems
