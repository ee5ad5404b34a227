"""What a manifest must not say: changes of ``manifest_example`` with a part of the message that refuses them."""

from __future__ import annotations

import json
from typing import Any

from microforge_benchmarks.conformance.manifest_example import changed, version2_values

VALUES = version2_values()


def _branch(**more: Any) -> dict[str, Any]:
    return {"prompt": "user", "weight": {"constant": 1}, **more}


#: (dotted path, new value or ... to remove it, part of Python's message).
REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("surprise", 1, "unknown key surprise"),
    ("targets.onnx.files.a.url", "http://x", "unknown key targets.onnx.files.a.url"),
    ("samplers", ..., "the key samplers is missing"),
    ("schema_version", 3, "schema_version 3, this version reads 1 and 2"),
    ("schema_version", True, "schema_version True"),
    ("schema_version", ..., "schema_version None"),
    ("noise", "mersenne", "noise"),
    ("bytes", 20, "bytes is 20, the files have 21 together"),
    ("targets.onnx.bytes", 3, "targets.onnx.bytes is 3, its files have 18 together"),
    ("model.description", "two\nlines", "model.description"),
    ("model.languages", ["en"] * 201, "model.languages"),
    ("tasks", {}, "tasks"),
    ("tasks.Bad Name", VALUES["tasks"]["generate"], "tasks.Bad Name"),
    ("sizes.0.height", "64", "sizes.0.height"),
    ("sizes.0.height", 70, "does not fit the latent"),
    ("sizes.0.latent_shape", [2, 3, 2], "does not fit the latent"),
    ("latent.std", [1.0], "for 2 channels"),
    ("latent.std", [1.0, 0.0], "latent.std.1"),
    ("tokenizers.clip.suffix", [1] * 8, "longer than 8 ids"),
    ("tokenizers.clip.length", 9, "'ids' needs shape [1, 8], tokens has [1, 9]"),
    ("tokenizers.clip.prefix", {"generate": []}, "tokenizers.clip.prefix lacks the task 'fill'"),
    ("tokenizers.clip.padding", "top", "tokenizers.clip.padding"),
    ("tokenizers.clip.suffix", [1 << 31], "tokenizers.clip.suffix.0"),
    ("encoders.words.role", "speech", "no component of role 'speech'"),
    (
        "encoders.words.inputs",
        {"ids": {"kind": "tokens", "tokenizer": "clip"}},
        "nothing says where input 'mask'",
    ),
    ("encoders.words.inputs.ids.tokenizer", "t5", "names 't5', which is not in tokenizers"),
    ("encoders.words.inputs.mask", {"kind": "time"}, "'mask' cannot come from 'time' here"),
    ("encoders.image.latent", "mean", "encode has no output 'mean'"),
    ("conditions.x", ..., "nothing says where input 'x' comes from"),
    ("conditions.x", {"kind": "image"}, "'x' needs shape [1, 2, 2, 3], image has [1, 3, 64, 96]"),
    ("conditions.x", {"kind": "formula"}, "conditions.x"),
    ("conditions.context.output", "pooled", "'context' needs shape [1, 8, 4], encoded has [1, 4]"),
    ("conditions.context.encoder", "t5", "names 't5', which is not in encoders"),
    ("conditions.extra.axis", 2, "cannot have parts of [4, 2, 1] along axis 2"),
    ("conditions.extra.parts.1.length", 3, "cannot have parts of [4, 3, 1] along axis 1"),
    ("conditions.extra.parts.1.part.values", [1, 2, 3], "cannot hold 3 values"),
    ("conditions.extra.parts.1.part.values", [1e39, 0], "conditions.extra"),
    ("conditions.label.parameter", "style", "names 'style', which is not in parameters"),
    ("conditions.memory", {"kind": "zeros"}, "'memory' is both bound and carried"),
    ("state.0.output", "next", "has no output 'next'"),
    ("state.0.flag", "context", "flag 'context' must be an input of one element"),
    ("state", [VALUES["state"][0]] * 9, "state"),
    ("guidance.text.default", 21, "default 21 is outside 0 to 20"),
    ("parameters.label.low", 4, "default 3 is outside 4 to 9"),
    ("samplers", [], "samplers"),
    ("samplers.0.rows.0.u", [1.0, 2.0], "row 0 uses evaluations before the first one"),
    ("samplers.0.rows.1.u", [1, 2, 3, 4, 5], "samplers.0.rows.1.u"),
    ("samplers.0.rows.0.m", [1e7], "samplers.0.rows.0.m.0"),
    ("samplers.0.times", [1.0], "2 rows for 1 times"),
    ("samplers.0.steps", 1001, "samplers.0.steps"),
    ("samplers.2", VALUES["samplers"][0], "two tables for the same steps, size and strength"),
    ("samplers", VALUES["samplers"][1:2], "no table for size 64x96"),
    ("samplers.0.rows.1.level", None, "a mask needs the noise level of every sampler row"),
    ("tasks.generate.network", "unet", "no component of role 'unet'"),
    ("tasks.generate.output", "eps", "has no output 'eps'"),
    ("tasks.generate.branches", [], "tasks.generate.branches"),
    ("tasks.generate.branches", [_branch()] * 5, "tasks.generate.branches"),
    ("tasks.generate.branches.0.weight.scales", {"image": 1}, "names 'image', which is not in guidance"),
    (
        "tasks.generate.branches.0",
        _branch(unprompted={"t": {"kind": "zeros"}}),
        "only a branch with the negative",
    ),
    (
        "tasks.generate.branches.0",
        _branch(conditions={"region": {"kind": "latent_mask"}}),
        "has no image and no mask",
    ),
    ("tasks.generate.branches.0", _branch(conditions={"t": {"kind": "latent"}}), "'t' needs shape [1]"),
    ("tasks.fill.source.encoder", "words", "encoder 'words' gives no latent"),
    ("tasks.fill.source.preserve_distances", [0.9, 0.5], "two rising distances"),
    ("tasks.fill.source.mask", "none", "masked_value without a mask"),
    ("tasks.fill.source.start.strength", 0, "tasks.fill.source.start.strength"),
    ("decode.role", None, "so the latent must be an image"),
    ("decode.output", "picture", "has no output 'picture'"),
    ("preview.patch", 2, "needs 12 rows"),
    ("preview.matrix", [[1], [2], [3]], "needs rows of 2 numbers"),
    ("components.b.size", {"height": 32, "width": 32}, "not in sizes"),
    ("components.b.role", "Denoise", "components.b.role"),
    ("components.b.inputs.0.shape", [1, 2, 3, 2], "needs shape [1, 2, 3, 2], latent has [1, 2, 2, 3]"),
    ("components.b.inputs.0.shape", [1, 2, 0, 2], "components.b.inputs.0.shape.2"),
    ("components.b.inputs.6.shape", [1 << 19, 1 << 19], "more than 67,108,864 elements"),
    ("components.b.inputs.0.dtype", "float64", "components.b.inputs.0.dtype"),
    ("components.b.inputs.2.name", "t", "names a tensor twice"),
    ("components.b.inputs.9.default", [1, 2, 3], "the default of 'scale' does not fill [2]"),
    ("components.b.outputs", [], "components.b.outputs"),
    ("components.e", VALUES["components"]["b"], "two denoise of size 64x96"),
    ("components.x/y", VALUES["components"]["a"], "components.x/y"),
    ("components.d", ..., "no component of role 'encode'"),
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
    ("targets.onnx.tasks.paint", {"max_abs_255": 1, "threshold": 2}, "targets.onnx.tasks names 'paint'"),
    ("targets.onnx.peaks.8x8", {"resident": 2, "staged": 1}, "targets.onnx.peaks has size 8x8"),
    ("targets.onnx.parts.c.0.path", "../extra.bin", "must be relative"),
    ("targets.onnx.memory.a.arena", -1, "targets.onnx.memory.a.arena"),
    ("golden.trajectories.0.size.width", 32, "not in sizes"),
    ("golden.trajectories.0.task", "paint", "golden.trajectories names 'paint'"),
    ("targets.onnx.files.a.path", "/etc/passwd", "must be relative"),
    ("targets.onnx.files.a.path", "onnx\\t.onnx", "must be relative"),
    ("targets.onnx.files.a.path", "C:/t.onnx", "must be relative"),
    ("targets.onnx.files.a.path", "onnx//t.onnx", "must be relative"),
    ("targets.onnx.files.a.path", "onnx/./t.onnx", "must be relative"),
    ("targets.onnx.files.a.path", "", "targets.onnx.files.a.path"),
    ("targets.onnx.files.a.path", "a\nb", "must be relative"),
)

#: JSON values of another type than the key has: nothing is converted.
WRONG_TYPES: tuple[tuple[str, Any, str], ...] = (
    ("sizes.0.height", 64.0, "sizes.0.height"),
    ("sizes.0.height", True, "sizes.0.height"),
    ("samplers.0.steps", "2", "samplers.0.steps"),
    ("samplers.0.first", "14.6", "samplers.0.first"),
    ("samplers.0.first", None, "samplers.0.first"),
    ("parameters.label.integer", 1, "parameters.label.integer"),
    ("parameters.label.integer", "true", "parameters.label.integer"),
    ("model.name", 5, "model.name"),
    ("conditions", [], "conditions"),
    ("state", {}, "state"),
    ("decode", "decode", "decode"),
    ("latent.mean", [0.0, float("nan")], "latent.mean"),
    ("guidance.text.high", float("inf"), "guidance.text.high"),
)
#: Texts that are no manifest at all.
DAMAGED = (
    b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'"x"',
    json.dumps(VALUES).encode()[:-1], json.dumps(VALUES).encode()[:1000],
)  # fmt: skip


def manifest_lines() -> str:
    """A line of JSON per manifest: ``name``, whether it is ``accepted``, the ``reason`` in Python's words, and its
    ``manifest`` as text, or in ``hex`` where it is none."""
    accepted = [("example", json.dumps(VALUES).encode())]
    refused = [
        (
            f"{path} = {'absent' if value is ... else json.dumps(value)}"[:120],
            message,
            changed(VALUES, path, value),
        )
        for path, value, message in (*REFUSED, *WRONG_TYPES)
    ]
    refused += [(f"damaged {index}", "damaged", data) for index, data in enumerate(DAMAGED)]
    entries = [
        *({"name": name, "accepted": True, "reason": "", **_content(data)} for name, data in accepted),
        *(
            {"name": name, "accepted": False, "reason": reason, **_content(data)}
            for name, reason, data in refused
        ),
    ]
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def _content(data: bytes) -> dict[str, str]:
    try:
        return {"manifest": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"hex": data.hex()}
