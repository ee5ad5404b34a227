"""A build as stages in order: each takes a state and returns the next one; the order is checked first.

read -> components | trace -> drawings for INT8 -> (lower -> lint -> write) of every target -> reference -> manifest -> parity of
every target -> golden -> manifest -> verify. The two before the bar are the plan; a dry run ends there, and
bad input is found there. All targets are lowered from one trace and compared with one reference.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from microforge.bundle.files import file_entry, load_bundle, write_manifest
from microforge.bundle.manifest import MANIFEST, Golden, Manifest, Size, Trajectory
from microforge.bundle.targets import ImageParity
from microforge.errors import ParityError, SpecError
from microforge.io.atomic import atomic_folder, check_output
from microforge.spec import parse_size
from microforge_export.build.manifest import TOKENIZER, make_manifest, make_target, worst_by_task
from microforge_export.build.report import build_report
from microforge_export.build.stages import BuildStage, Reporter, State, check_order, run_stages
from microforge_export.checks import golden, parity, test_images
from microforge_export.checks.inspect import REPORT
from microforge_export.checks.reference import drawing, record
from microforge_export.checks.verify import verify
from microforge_export.components.component import SourceModel, trace
from microforge_export.quantization.build_steps import (
    judge,
    lower_int8,
    other_precisions,
    read_recipes,
    record_drawings,
)
from microforge_export.recipes.build_recipe import Recipe, TargetRecipe
from microforge_export.targets.registry import lowering, require_packages
from microforge_runtimes.sampler import to_pixels

PREVIEW = "preview.png"


def plan(recipe: Recipe, load: Callable[[], SourceModel]) -> State:
    """The state before anything is traced: the model, its sizes and components. Writes nothing.

    Raises:
        MissingExtraError: when a target's packages are not installed.
        CheckpointError, SpecError: when the model cannot be read or cannot have a size or task.
    """
    require_packages(target.name for target in recipe.targets)
    return run_stages(PLANNING, State(recipe, load))


def build(
    recipe: Recipe, load: Callable[[], SourceModel], out: Path, force: bool = False,
    report: Reporter = lambda *_: None,
) -> State:  # fmt: skip
    """Build the bundle ``out``; it appears whole at the end or not at all.

    Args:
        load: reads the model; called once, after ``out`` was found writable.

    Raises:
        OutputExistsError, OutputError: as ``microforge.bundle.files.atomic_folder``.
        MissingExtraError, CheckpointError, SpecError: as ``plan``.
        GraphLintError, ParityError: when a graph or its results are not good enough.
    """
    check_output(out, force)
    stages = stages_of(recipe)
    check_order((*PLANNING, *stages), ("recipe", "load", "folder"))
    planned = plan(recipe, load)
    with atomic_folder(out, force, marker=MANIFEST) as folder:
        stages = stages_of(planned.recipe)  # the plan has read the INT8 recipes
        return run_stages(stages, dataclasses.replace(planned, folder=folder), report)


def _read(state: State) -> Mapping[str, Any]:
    model = state.load()
    for task in state.recipe.tasks:
        if task not in model.tasks:
            raise SpecError(f"this checkpoint cannot {task}; its tasks: {', '.join(model.tasks)}")
    tasks = state.recipe.tasks or model.tasks
    requests = tuple(request for request in state.recipe.requests if request.task in tasks)
    recipe = dataclasses.replace(state.recipe, tasks=tasks, requests=requests)
    return {"model": model, "recipe": read_recipes(recipe, model)}


def _components(state: State) -> Mapping[str, Any]:
    model: SourceModel = state.get("model")
    pixels = [parse_size(text, model.latent.downsample) for text in state.recipe.sizes]
    sizes = tuple(Size(height=height, width=width) for height, width in dict.fromkeys(pixels))
    sizes = sizes or (model.native_size,)
    return {"sizes": sizes, "components": model.provider.components(sizes, state.recipe.tasks)}


def _trace(state: State) -> Mapping[str, Any]:
    return {"programs": {component.key: trace(component) for component in state.get("components")}}


def _lower(target: TargetRecipe, state: State) -> Mapping[str, Any]:
    components, programs = state.get("components"), state.get("programs")
    if target.int8 is not None:
        return {"artefacts": lower_int8(target.int8, components, programs, state.get("int8_drawings"))}
    return {"artefacts": lowering(target)(components, programs)}


def _int8_drawings(state: State) -> Mapping[str, Any]:
    recipes = [target.int8 for target in state.recipe.targets if target.int8 is not None]
    made = record_drawings(state.get("model"), state.get("components"), recipes, state.detail)
    return {"int8_drawings": made}


def _lint(state: State) -> Mapping[str, Any]:
    state.get("artefacts").lint()
    return {}


def _write(target: TargetRecipe, state: State) -> Mapping[str, Any]:
    made = state.get("artefacts").write(state.get("folder"))
    return {"made": {**(state.made or {}), target.name: made}, "artefacts": None}


def _reference(state: State) -> Mapping[str, Any]:
    """The components' cases, and every whole drawing of the library's own pipeline: once for all targets."""
    model: SourceModel = state.get("model")
    drawings = {
        (size, request): drawing(model, request, size)
        for size in state.get("sizes")
        for request in state.recipe.requests
    }
    reference = record(model, state.get("components"), state.recipe.requests)
    return {"reference": reference, "drawings": drawings}


def _draft(state: State) -> Mapping[str, Any]:
    """The tokenizer, and the manifest without measurements: what the runtimes need to open the files."""
    folder: Path = state.get("folder")
    shutil.copyfile(state.get("model").tokenizer.path, folder / TOKENIZER)
    manifest = _manifest(state)
    write_manifest(folder, manifest)
    return {"manifest": manifest}


def _manifest(state: State) -> Manifest:
    """The manifest of what ``state`` has so far."""
    measured, images, made = state.parity or {}, state.images or {}, state.get("made")
    targets = {
        target.name: make_target(
            target.precision,
            made[target.name],
            measured.get(target.name, {}),
            images.get(target.name, {}),
            worst_by_task(images.get(target.name, {}), state.recipe.requests, state.get("sizes")),
            (state.quality or {}).get(target.name, {}),
            other_precisions(target, state.get("components")),
        )
        for target in state.recipe.targets
    }  # fmt: skip
    return make_manifest(
        state.get("folder"), state.recipe, state.get("model"), state.get("sizes"), state.get("components"),
        targets, state.golden or Golden(),
    )  # fmt: skip


def _parity(target: TargetRecipe, state: State) -> Mapping[str, Any]:
    """Components and whole drawings, through the runtime that ships; refuses what falls short."""
    limits = target.thresholds
    bundle = load_bundle(state.get("folder"))
    cases = state.get("reference").cases
    measured = parity.measure_components(bundle, target.name, cases, threshold_db=limits.component_psnr_db)
    images = {}
    for size in state.get("sizes"):
        with test_images.open_generator(bundle, target.name, size) as generator:
            for request in state.recipe.requests:
                start = test_images.given(request.task, size)
                image = test_images.draw_float(generator, request.task, request.prompt, request.seed, start)
                images[test_images.name(request.task, request.prompt, size)] = ImageParity(
                    max_abs_255=parity.image_difference_255(state.get("drawings")[size, request], image),
                    threshold=limits.image_max_diff_255,
                )
    quality = dict(state.quality or {})
    if target.int8 is not None:
        quality[target.name] = judge(
            bundle, target.int8, state.get("model"), state.get("components"), state.get("programs"),
            state.get("int8_drawings"), state.detail,
        )  # fmt: skip
    parity.require(target.name, measured, images)
    return {
        "parity": {**(state.parity or {}), target.name: measured},
        "images": {**(state.images or {}), target.name: images},
        "quality": quality,
    }


def _golden(state: State) -> Mapping[str, Any]:
    folder, reference = state.get("folder"), state.get("reference")
    (folder / "golden").mkdir()
    cases = {}
    for key, values in reference.cases.items():
        relative = f"golden/{key}.safetensors"
        golden.write_cases(folder / relative, values)
        cases[key] = file_entry(folder, relative)
    trajectories = []
    for (size, request), tensors in reference.trajectories.items():
        task = "" if request.task == "generate" else f"{request.task}_"
        relative = f"golden/trajectory_{task}{size}.safetensors"
        golden.write_tensors(folder / relative, tensors)
        entry = file_entry(folder, relative)
        trajectories.append(
            Trajectory(task=request.task, size=size, prompt=request.prompt, seed=request.seed, file=entry)
        )
    return {"golden": Golden(components=cases, trajectories=tuple(trajectories))}


def _finish(state: State) -> Mapping[str, Any]:
    """The complete manifest, the report, and the first drawing as a picture made by the bundle itself."""
    folder, request, size = state.get("folder"), state.recipe.requests[0], state.get("sizes")[0]
    manifest = _manifest(state)
    bundle_id = write_manifest(folder, manifest)
    with test_images.open_generator(load_bundle(folder), state.recipe.targets[0].name, size) as generator:
        start = test_images.given(request.task, size)
        image = test_images.draw_float(generator, request.task, request.prompt, request.seed, start)
    Image.fromarray(to_pixels(image)).save(folder / PREVIEW)
    report = build_report(dataclasses.replace(state, manifest=manifest))
    (folder / REPORT).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return {"manifest": manifest, "bundle_id": bundle_id}


def _verify(state: State) -> Mapping[str, Any]:
    """What was written, read back as ``mf-export verify`` does."""
    result = verify(load_bundle(state.get("folder")))
    if result.problems:
        raise ParityError("; ".join(result.problems))
    return {}


PLANNING = (
    BuildStage("read the checkpoint", ("recipe", "load"), ("model", "recipe"), _read),
    BuildStage("choose components", ("model",), ("sizes", "components"), _components),
)


def stages_of(recipe: Recipe) -> tuple[BuildStage, ...]:
    """The stages after the plan."""
    content = ("folder", "model", "sizes", "components", "made")
    checked = ("folder", "sizes", "reference", "drawings", "manifest")
    making, checking = [], []
    for target in recipe.targets:
        name = target.name
        lower, write, check = (functools.partial(step, target) for step in (_lower, _write, _parity))
        making += [
            BuildStage(f"lower for {name}", ("components", "programs"), ("artefacts",), lower),
            BuildStage(f"lint for {name}", ("artefacts",), (), _lint),
            BuildStage(f"write for {name}", ("folder", "artefacts"), ("made", "artefacts"), write),
        ]
        checking.append(
            BuildStage(f"check parity of {name}", checked, ("parity", "images", "quality"), check)
        )
    drawn = BuildStage("draw for int8", ("model", "components"), ("int8_drawings",), _int8_drawings)
    return (
        BuildStage("trace", ("components",), ("programs",), _trace),
        *((drawn,) if any(target.precision == "int8" for target in recipe.targets) else ()),
        *making,
        BuildStage(
            "record the reference", ("model", "sizes", "components"), ("reference", "drawings"), _reference
        ),
        BuildStage("draft the manifest", content, ("manifest",), _draft),
        *checking,
        BuildStage("write golden files", ("folder", "reference"), ("golden",), _golden),
        BuildStage(
            "write manifest and preview",
            (*content, "parity", "images", "golden"), ("manifest", "bundle_id"), _finish,
        ),
        BuildStage("verify the result", ("folder", "bundle_id"), (), _verify),
    )  # fmt: skip
