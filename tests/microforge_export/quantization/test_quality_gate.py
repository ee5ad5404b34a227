"""The gate of a recipe: good ones pass, bad ones are refused by the name of what is at fault."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import cast

import pytest
from rich.console import Console
from torch.export import ExportedProgram

from microforge.bundle.files import Bundle
from microforge.errors import SpecError
from microforge_export.checks.metrics import Metric
from microforge_export.components.component import SampleRequest, SourceComponent, SourceModel
from microforge_export.quantization import quality_gate
from microforge_export.quantization.calibration import RecordedSample, Run
from microforge_export.quantization.onnx import OnnxQuantizable
from microforge_export.quantization.quality import MeasuredQuality
from microforge_export.quantization.quality_gate import (
    QualityError,
    QualityEvidence,
    find_fault,
    quality_metrics,
)
from microforge_export.quantization.quality_view import fault_tables
from microforge_export.recipes.int8_recipe import Host, Int8Limits, Int8Recipe, role_schemes

RECIPE = Int8Recipe(
    model="miniature", target="onnx", host=Host(machine="x86_64", instructions=(), threads=1),
    schemes={"vae_decoder": {"conv decoder.stages.1": "static", "conv decoder.stages.2": "fp32"}},
)  # fmt: skip
GOOD = MeasuredQuality(
    components={"denoiser": 30.0}, images=(40.0, 31.0, 26.0), guidance_norm_ratio=1.0, state_drift=0.1
)


@pytest.mark.parametrize(
    ("worse", "named"),
    [
        (replace(GOOD, components={"denoiser": 12.0}), "PSNR of denoiser is 12.0 dB, needed: at least 20 dB"),
        (replace(GOOD, images=(29.0, 29.0, 40.0)), "median PSNR of 3 images is 29.0 dB"),
        (replace(GOOD, images=(40.0, 40.0, 23.0)), "worst PSNR of 3 images is 23.0 dB"),
        (replace(GOOD, guidance_norm_ratio=0.85), "guidance-norm ratio is 0.850, needed: 0.9 to 1.1"),
        (replace(GOOD, guidance_norm_ratio=1.2), "guidance-norm ratio is 1.200"),
        (replace(GOOD, state_drift=0.5), "relative state error is 0.500, needed: at most 0.25"),
    ],
)
def test_every_limit_has_teeth(worse: MeasuredQuality, named: str) -> None:
    assert all(item.met for item in quality_metrics(GOOD, RECIPE))
    (missed,) = (item for item in quality_metrics(worse, RECIPE) if not item.met)
    assert named in missed.phrase()


def test_suspects_are_judged_by_the_drawings_that_came_out_worst() -> None:
    assert quality_gate.worst_samples(replace(GOOD, images=(40.0, 17.0, 44.0, 23.0))) == [1, 3]


def test_a_figure_that_is_no_number_is_not_met() -> None:
    assert not Metric(what="x", value=float("nan"), low=1.0).met
    assert not Metric(what="x", value=float("nan"), high=1.0).met


@pytest.fixture(autouse=True)
def lowered_once(quantizables: dict[str, OnnxQuantizable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        quality_gate, "quantizable_factory", lambda _: lambda component, *_: quantizables[component.key]
    )


@pytest.fixture
def evidence(
    source_model: SourceModel, components: tuple[SourceComponent, ...], programs: dict[str, ExportedProgram], recorded_sample: RecordedSample
) -> QualityEvidence:  # fmt: skip
    inputs = {item.key: [case.inputs for case in recorded_sample.cases[item.role]][:4] for item in components}
    bundle = source_model.bundle(components, [source_model.native_size], ["generate"])
    return QualityEvidence(
        bundle,
        source_model,
        components,
        programs,
        inputs,
        [SampleRequest("a red circle", 0)],
        [recorded_sample],
    )


def test_the_fault_is_the_only_quantized_group(
    evidence: QualityEvidence, components: tuple[SourceComponent, ...]
) -> None:
    decoder = next(item for item in components if item.role == "vae_decoder")
    fault = find_fault(RECIPE, evidence, decoder)
    assert (fault.component, fault.group, fault.scheme) == ("vae_decoder", "conv decoder.stages.1", "static")
    assert 20.0 < fault.alone_db < 100.0 <= fault.without_db


def test_the_fault_names_the_component_alone_where_a_target_cannot_try_groups(
    evidence: QualityEvidence, components: tuple[SourceComponent, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise SpecError("cannot be tuned")

    monkeypatch.setattr(quality_gate, "quantizable_factory", refuse)
    assert find_fault(RECIPE, evidence, components[0]).group is None


def test_a_missed_image_limit_is_blamed_on_the_component_that_hurts_images(
    evidence: QualityEvidence, quantizables: dict[str, OnnxQuantizable], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through sessions as a bundle has them; only the decoder is quantized badly."""

    @contextmanager
    def sessions(*_: object) -> Iterator[Run]:
        with ExitStack() as stack:
            opened = {
                item.component.role: stack.enter_context(
                    item.candidate(role_schemes(RECIPE, item.component.role))
                )
                for item in quantizables.values()
            }
            yield lambda role, inputs: opened[role].session.run(inputs)

    monkeypatch.setattr(quality_gate, "bundle_runner", sessions)
    bundle = cast(Bundle, None)
    quality = quality_gate.require_quality(bundle, RECIPE, evidence)
    assert 24.0 < quality.image_worst_db < 100.0 and quality.guidance_norm_ratio == pytest.approx(
        1.0, abs=1e-3
    )
    strict = replace(RECIPE, limits=Int8Limits(image_psnr_worst_db=150.0))
    with pytest.raises(QualityError, match=r"worst PSNR of 1 image .*vae_decoder.*'conv decoder\.stages\.1' \(static\)") as caught:  # fmt: skip
        quality_gate.require_quality(bundle, strict, evidence)
    out = io.StringIO()
    Console(file=out, width=160).print(fault_tables(caught.value))
    assert "falls short" in out.getvalue() and "conv decoder.stages.1" in out.getvalue()
