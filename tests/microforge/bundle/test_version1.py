"""Manifests of schema version 1: still checked strictly, and read as the same bundle in version 2."""

from __future__ import annotations

import json
from typing import Any

import pytest

from microforge.bundle.files import parse_manifest
from microforge.errors import BundleError
from tests.microforge.bundle.manifests import changed, version1_values

VALUES = version1_values()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("surprise", 1, "unknown key surprise"),
        ("targets.onnx.files.a.url", "http://x", "unknown key targets.onnx.files.a.url"),
        ("sampler", ..., "the key sampler is missing"),
        ("schema_version", 2, "the key conditions is missing"),
        ("schema_version", True, "schema_version True"),
        ("schema_version", ..., "schema_version None"),
        ("noise", "mersenne", "noise"),
        ("tasks", [], "tasks"),
        ("tasks", ["edit"], "task_prefixes lacks the task 'edit'"),
        ("sizes.0.height", "64", "sizes.0.height"),
        ("sizes.0.height", 70, "does not fit the latent"),
        ("sizes.0.latent_shape", [2, 3, 2], "does not fit the latent"),
        ("sampler.timesteps", [1.0, 0.5, 0.5, 0.0], "fall strictly"),
        ("sampler.timesteps", [0.9, 0.0], "fall strictly"),
        ("sampler.prediction", "epsilon", "sampler.prediction"),
        ("latent.std", [1.0], "for 2 channels"),
        ("latent.std", [1.0, 0.0], "latent.std.1"),
        ("components.b.size", {"height": 32, "width": 32}, "not in sizes"),
        ("components.b.role", "denoise", "components.b.role"),
        ("components.b.inputs.0.shape", [1, 2, 3, 2], "'z' needs shape [1, 2, 3, 2]"),
        ("components.b.inputs.0.shape", [1, 2, 0, 2], "components.b.inputs.0.shape.2"),
        ("components.b.inputs.0.dtype", "float64", "components.b.inputs.0.dtype"),
        ("components.b.inputs.0.name", "x", "nothing says where input 'x' comes from"),
        ("components.b.inputs.2.name", "t", "names a tensor twice"),
        ("components.b.outputs", [], "at least 1 item"),
        ("components.d", VALUES["components"]["b"], "two denoiser of size 64x96"),
        ("components.b", ..., "no component of role 'denoiser'"),
        ("targets.onnx.precision", "fp8", "targets.onnx.precision"),
        ("targets.tflite", {}, "targets.tflite"),
        ("targets.onnx.files.a.sha256", "A" * 64, "targets.onnx.files.a.sha256"),
        ("targets.onnx.files.a.bytes", -1, "targets.onnx.files.a.bytes"),
        ("targets.onnx.delegated_fraction", 1.5, "targets.onnx.delegated_fraction"),
        ("targets.onnx.coverage.a.delegated", 4, "4 of 3 operators cannot be delegated"),
        (
            "targets.onnx.coverage.z",
            VALUES["targets"]["onnx"]["coverage"]["a"],
            "names 'z', which is not in components",
        ),
        ("targets.onnx.parts.z", [], "targets.onnx.parts names 'z'"),
        ("targets.onnx.parts.c.0.path", "../extra.bin", "must be relative"),
        ("targets.onnx.memory.a.arena", -1, "targets.onnx.memory.a.arena"),
        ("golden.trajectories.0.size.width", 32, "not in sizes"),
        ("targets.onnx.files.a.path", "../t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "/etc/passwd", "must be relative"),
        ("targets.onnx.files.a.path", "onnx\\t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "C:/t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "onnx//t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "onnx/./t.onnx", "must be relative"),
        ("targets.onnx.files.a.path", "", "targets.onnx.files.a.path"),
        ("targets.onnx.files.a.path", "a\nb", "must be relative"),
    ],
)
def test_what_version_1_did_not_allow_is_still_named_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(changed(VALUES, path, value), "m.mfb/manifest.json")
    assert message in str(caught.value) and str(caught.value).startswith("m.mfb/manifest.json")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_guided_model_keeps_its_scales_steps_prefixes_and_files() -> None:
    manifest = parse_manifest(json.dumps(VALUES).encode())
    assert manifest.schema_version == 2 and list(manifest.tasks) == ["generate"]
    assert {name: scale.default for name, scale in manifest.guidance.items()} == {"text": 3.5}
    assert [branch.weight.value({"text": 3.5}) for branch in manifest.active_branches()] == [3.5, -2.5]
    assert [table.steps for table in manifest.samplers] == [2, 1]
    assert manifest.samplers[0].times == (1.0, 0.5) and [row.m for row in manifest.samplers[0].rows] == [
        (-0.5,),
        (-0.5,),
    ]
    tokenizer = manifest.tokenizers["prompt"]
    assert (tokenizer.prefix, tokenizer.suffix, tokenizer.pad) == ({"generate": (1, 4)}, (2,), 0)
    assert manifest.bytes == 7 * 3 and manifest.targets["onnx"].bytes == 6 * 3
    assert manifest.golden.trajectories[0].renamed["u"] == "z" and manifest.state == ()
    assert manifest.model.name == "nano" and manifest.model.config["latent"] == [1, 2.5, None]


def test_a_distilled_editor_becomes_tasks_with_a_source_and_a_state() -> None:
    values: Any = version1_values()
    z, plan = (
        {"name": "z", "shape": [1, 2, 2, 3], "dtype": "float32"},
        {"name": "plan", "shape": [1, 3, 4], "dtype": "float32"},
    )
    network = values["components"]["b"]
    network["inputs"] += [plan, {"name": "has_plan", "shape": [1], "dtype": "float32"}]
    network["outputs"] += [{**plan, "name": "next_plan"}]
    image = {"name": "image", "shape": [1, 3, 64, 96], "dtype": "float32"}
    values["components"]["e"] = {
        **network,
        "role": "denoiser_edit",
        "inputs": [*network["inputs"], {**z, "name": "source"}],
    }
    values["components"]["f"] = {
        **network,
        "role": "vae_encoder",
        "inputs": [image],
        "outputs": [{**z, "name": "latent"}],
    }
    values["tasks"] = ["generate", "edit", "inpaint", "super-resolve"]
    values["tokenizer"]["task_prefixes"] = {name: 4 + index for index, name in enumerate(values["tasks"])}
    values["sampler"] = {
        "timesteps": [1.0, 0.5, 0.0],
        "guidance": "folded",
        "prediction": "velocity",
        "unchanged": [0.5, 0.9],
    }
    values["targets"]["onnx"]["quality"] = {"64x96": {
        "images": 4, "psnr_median_db": 40, "psnr_worst_db": 30, "survival": 1.01, "plan_drift": 0.02,
        "limits": {"psnr_median_db": 30, "psnr_worst_db": 20, "survival_low": 0.9, "survival_high": 1.1, "plan_drift": 0.25},
    }}  # fmt: skip
    manifest = parse_manifest(json.dumps(values).encode())
    assert manifest.guidance == {} and [table.steps for table in manifest.samplers] == [2]
    edit, inpaint, larger = (manifest.tasks[name].source for name in ("edit", "inpaint", "super-resolve"))
    assert edit is not None and inpaint is not None and larger is not None
    assert (
        edit.preserve_distances == (0.5, 0.9) and inpaint.masked_value == 0.5 and inpaint.mask == "required"
    )
    assert larger.enlarge is not None and larger.enlarge.factors == (2, 4)
    assert [(state.output, state.input, state.flag) for state in manifest.state] == [
        ("next_plan", "plan", "has_plan")
    ]
    assert [stage.role for stage in manifest.stages("edit")] == [
        "text_encoder",
        "vae_encoder",
        "denoiser_edit",
        "vae_decoder",
    ]
    quality = manifest.targets["onnx"].quality["64x96"]
    assert (quality.guidance_norm_ratio, quality.state_drift, quality.limits.state_drift) == (
        1.01,
        0.02,
        0.25,
    )
