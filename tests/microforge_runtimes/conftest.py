"""A miniature bundle of real ONNX graphs whose results are known in closed form (see ``expected_latent``)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from microforge.bundle.files import file_entry, write_manifest
from microforge.bundle.manifest import Component, Manifest, ModelEntry, Provenance, Size
from microforge.bundle.reference_model import Facts, driving
from microforge.bundle.sampling import LatentSpace, Preview
from microforge.bundle.targets import Target
from microforge.bundle.unwritten import size_entries
from microforge.noise import NOISE_NAME
from microforge.spec import TASKS
from microforge.tokenizer import BOS, EOS, PAD, TASK_IDS, PromptTokenizer, train_tokenizer

L, E, C, K, D, DOWN = 16, 4, 2, 3, 4, 32
Shapes = dict[str, tuple[int, ...]]


def _constant(name: str, values: Any, dtype: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def _graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Shapes,
    outputs: Shapes,
    constants: list[onnx.TensorProto],
) -> dict[str, Any]:
    """Write a graph; returns the inputs and outputs as a manifest component lists them."""

    def kind(name: str) -> tuple[int, str]:
        return (TensorProto.INT64, "int64") if name == "ids" else (TensorProto.FLOAT, "float32")

    graph = helper.make_graph(
        nodes, path.stem,
        [helper.make_tensor_value_info(name, kind(name)[0], shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind(name)[0], shape) for name, shape in outputs.items()],
        constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    external = path.stem.startswith("denoiser")
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.stem}.bin", size_threshold=0
    )  # fmt: skip
    return {
        side: [
            {"name": name, "shape": list(shape), "dtype": kind(name)[1]} for name, shape in tensors.items()
        ]
        for side, tensors in (("inputs", inputs), ("outputs", outputs))
    }


def _text_encoder(path: Path) -> dict[str, Any]:
    """text = ids / 100 on tokens and 0 on padding, in every column; pooled = its mean over L."""
    node = helper.make_node
    nodes = [
        node("Cast", ["ids"], ["idsf"], to=TensorProto.FLOAT),
        node("Mul", ["idsf", "mask"], ["kept"]),
        node("Reshape", ["kept", "column"], ["tall"]),
        node("Mul", ["tall", "hundredth"], ["text"]),
        node("ReduceMean", ["text", "axis"], ["pooled"], keepdims=0),
    ]
    constants = [
        _constant("column", [1, L, 1], np.int64), _constant("hundredth", np.full((1, 1, E), 0.01)),
        _constant("axis", [1], np.int64),
    ]  # fmt: skip
    return _graph(
        path, nodes, {"ids": (1, L), "mask": (1, L)}, {"text": (1, L, E), "pooled": (1, E)}, constants
    )


def _denoiser(path: Path, h: int, w: int, edit: bool = False) -> dict[str, Any]:
    """next_plan = has_plan * plan / 2 + mean(pooled); velocity = z / 4 + t + mean(next_plan) [+ source / 8]."""
    node = helper.make_node
    nodes = [
        node("Mul", ["plan", "has_plan"], ["old"]),
        node("Mul", ["old", "half"], ["halved"]),
        node("ReduceMean", ["pooled"], ["level"], keepdims=0),
        node("Add", ["halved", "level"], ["next_plan"]),
        node("ReduceMean", ["next_plan"], ["push"], keepdims=0),
        node("Mul", ["z", "quarter"], ["pull"]),
        node("Add", ["push", "t"], ["drift"]),
        node("Add", ["pull", "drift"], ["flow"]),
        node("ReduceSum", ["text"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask"], ["count"], keepdims=0),
        node("Add", ["sum", "count"], ["unused"]),
        node("Mul", ["unused", "zero"], ["nothing"]),
        node("Add", ["flow", "nothing"], ["drawn" if edit else "velocity"]),
    ]
    if edit:
        nodes += [
            node("Mul", ["source", "eighth"], ["copied"]),
            node("Add", ["drawn", "copied"], ["velocity"]),
        ]
    inputs: Shapes = {
        "z": (1, C, h, w), "t": (1,), "text": (1, L, E), "mask": (1, L), "pooled": (1, E), "plan": (1, K, D), "has_plan": (1,),
    }  # fmt: skip
    inputs |= {"source": (1, C, h, w)} if edit else {}
    constants = [_constant("half", 0.5), _constant("quarter", 0.25), _constant("zero", 0.0)]
    constants += [_constant("eighth", 0.125)] if edit else []
    return _graph(path, nodes, inputs, {"velocity": (1, C, h, w), "next_plan": (1, K, D)}, constants)


def _encoder(path: Path, h: int, w: int) -> dict[str, Any]:
    """latent = the mean red and the mean green of every square of DOWN pixels."""
    node = helper.make_node
    nodes = [
        node("AveragePool", ["image"], ["means"], kernel_shape=[DOWN, DOWN], strides=[DOWN, DOWN]),
        node("Slice", ["means", "from", "to", "axis"], ["latent"]),
    ]
    constants = [_constant(name, [value], np.int64) for name, value in (("from", 0), ("to", C), ("axis", 1))]
    return _graph(path, nodes, {"image": (1, 3, h * DOWN, w * DOWN)}, {"latent": (1, C, h, w)}, constants)


def _decoder(path: Path, h: int, w: int) -> dict[str, Any]:
    """image = sigmoid of the latent's mean over channels, each cell a square of DOWN pixels."""
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["latent", "axis"], ["grey"]),
        node("Sigmoid", ["grey"], ["level"]),
        node("Reshape", ["level", "cells"], ["spread"]),
        node("Expand", ["spread", "squares"], ["blocks"]),
        node("Reshape", ["blocks", "pixels"], ["image"]),
    ]
    constants = [
        _constant("axis", [1], np.int64), _constant("cells", [1, 1, h, 1, w, 1], np.int64),
        _constant("squares", [1, 3, h, DOWN, w, DOWN], np.int64), _constant("pixels", [1, 3, h * DOWN, w * DOWN], np.int64),
    ]  # fmt: skip
    return _graph(path, nodes, {"latent": (1, C, h, w)}, {"image": (1, 3, h * DOWN, w * DOWN)}, constants)


#: The preview of the miniature: red is the first channel, green the second, every cell two pixels wide.
PREVIEW = Preview(
    patch=2,
    matrix=tuple([(1.0, 0.0)] * 4 + [(0.0, 1.0)] * 4 + [(0.0, 0.0)] * 4),
    bias=(0.5,) * 12,
    psnr_db=20.0,
)


def build_bundle(
    folder: Path,
    timesteps: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.0),
    guidance: tuple[float, float] | None = None,
    sizes: tuple[tuple[int, int], ...] = ((64, 96),),
    tasks: tuple[str, ...] = ("generate",),
) -> Path:
    """A bundle with one text encoder, and the networks of ``tasks`` per size (height, width)."""
    (folder / "onnx").mkdir(parents=True)
    words = ["a red circle", "a blue square on a white background", "two green triangles"]
    PromptTokenizer(train_tokenizer(words, 300)).save(folder / "tokenizer.json")
    components: dict[str, Any] = {
        "text": {"role": "text_encoder", "size": None, **_text_encoder(folder / "onnx/text.onnx")}
    }
    for index, (height, width) in enumerate(sizes):
        h, w, size = height // DOWN, width // DOWN, {"height": height, "width": width}
        denoiser, decoder = f"denoiser{index}", f"decoder{index}"
        components[denoiser] = {
            "role": "denoiser",
            "size": size,
            **_denoiser(folder / f"onnx/{denoiser}.onnx", h, w),
        }
        components[decoder] = {
            "role": "vae_decoder",
            "size": size,
            **_decoder(folder / f"onnx/{decoder}.onnx", h, w),
        }
        if set(tasks) - {"generate"}:
            edit, encoder = f"denoiser_edit{index}", f"encoder{index}"
            made = _denoiser(folder / f"onnx/{edit}.onnx", h, w, edit=True)
            components[edit] = {"role": "denoiser_edit", "size": size, **made}
            made = _encoder(folder / f"onnx/{encoder}.onnx", h, w)
            components[encoder] = {"role": "vae_encoder", "size": size, **made}
    drive = driving(
        Facts(
            tokenizer=file_entry(folder, "tokenizer.json"), length=L, pad=PAD, bos=BOS, eos=EOS, prefixes=TASK_IDS,
            timesteps=timesteps, guidance=guidance, preserve_distances=None,
            latent=LatentSpace(channels=C, downsample=DOWN, mean=(0.5, -0.5), std=(2.0, 1.0)), tasks=tasks,
            inputs=frozenset({"z", "t", "text", "mask", "pooled", "plan", "has_plan", "source"}),
            has_image_encoder=bool(set(tasks) - {"generate"}),
        ),
        PREVIEW,
    )  # fmt: skip
    files = {key: file_entry(folder, f"onnx/{key}.onnx") for key in components}
    shared = tuple(
        file_entry(folder, f"onnx/{path.name}") for path in sorted((folder / "onnx").glob("*.bin"))
    )
    tokenizer = next(iter(drive.tokenizers.values())).file.bytes
    count = tokenizer + sum(entry.bytes for entry in (*files.values(), *shared))
    manifest = Manifest(
        **{name: getattr(drive, name) for name in type(drive).model_fields},
        schema_version=2,
        model=ModelEntry(name="miniature"),
        bytes=count,
        sizes=size_entries([Size(height=height, width=width) for height, width in sizes], drive),
        noise=NOISE_NAME,
        components={key: Component.model_validate(value) for key, value in components.items()},
        targets={"onnx": Target(precision="fp32", bytes=count, files=files, shared_files=shared)},
        provenance=Provenance(checkpoint_sha256="0" * 64, versions={}, created="2026-01-01T00:00:00Z"),
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def distilled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four distilled steps, one size; read only."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "distilled.mfb")


@pytest.fixture(scope="session")
def guided_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four guided steps, two sizes; read only."""
    return build_bundle(
        tmp_path_factory.mktemp("bundles") / "guided.mfb", guidance=(3.0, 1.0), sizes=((64, 96), (32, 32))
    )


@pytest.fixture(scope="session")
def editing_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four guided steps, two sizes, all tasks; read only."""
    return build_bundle(
        tmp_path_factory.mktemp("bundles") / "editing.mfb", guidance=(3.0, 1.5),
        sizes=((64, 64), (64, 96)), tasks=(*TASKS, "vary"),
    )  # fmt: skip


@pytest.fixture
def new_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Builds a bundle of its own for a test that damages it; takes the arguments of ``build_bundle``."""
    return lambda **options: build_bundle(tmp_path / "model.mfb", **options)


def expected_latent(
    noise: NDArray[np.float32], pooled: float, empty: float, scale: float, grid: tuple[float, ...]
) -> NDArray[np.float64]:
    """What the miniature denoiser leads to, in double precision, with a plan state per branch."""
    z = noise.astype(np.float64)
    plan = plan_empty = 0.0
    for t, t_next in itertools.pairwise(grid):
        plan, plan_empty = plan / 2 + pooled, plan_empty / 2 + empty
        conditional, unconditional = z / 4 + t + plan, z / 4 + t + plan_empty
        z = z + (t_next - t) * (unconditional + scale * (conditional - unconditional))
    return z


@pytest.fixture
def closed_form() -> Callable[..., NDArray[np.float64]]:
    return expected_latent
