"""The runtime samples with the networks of a diffusers folder as the library's own pipeline does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="needs the extra [diffusers]")

from microforge.bundle.manifest import Size
from microforge.components.torch_session import TorchOpener
from microforge.errors import SpecError
from microforge_export.checks.parity import psnr_db
from microforge_export.checks.test_images import test_request as request_of
from microforge_export.components.component import SourceModel
from microforge_export.providers.source_folder import SourceOptions, read_source
from microforge_runtimes import Generator, Request

Folder = Callable[[str], Path]
#: Families -> options; steps are few because the networks are random.
FAMILIES = {
    "sd15": SourceOptions(steps="4"),
    "sd2": SourceOptions(steps="3"),
    "sd-turbo": SourceOptions(),
    "lcm": SourceOptions(),
    "bk-sdm": SourceOptions(steps="4"),
    "sdxs": SourceOptions(),
    "sdxl-turbo": SourceOptions(),
}


def _generator(model: SourceModel, size: Size) -> Generator:
    components = model.provider.components([size], model.tasks)
    bundle = model.bundle(components, [size], model.tasks)
    return Generator(bundle, "torch", opener=TorchOpener(components), keep_loaded=True)


def _psnr(model: SourceModel, request: Request, size: Size) -> float:
    with _generator(model, size) as generator:
        image = generator.run(request).float_image
    return psnr_db(model.provider.reference(request, size), image)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_task_follows_the_library(family: str, model_folder: Folder) -> None:
    model = read_source(model_folder(family), FAMILIES[family])
    size = model.native_size
    driving = model.provider.driving(model.tasks)
    assert (size.height, size.width) == (64, 64)
    for task in model.tasks:
        assert _psnr(model, request_of(driving, task, "a red apple", 3, size), size) >= 60.0, task


def test_defaults_follow_the_family_and_are_said(model_folder: Folder) -> None:
    turbo, lcm = (read_source(model_folder(name)) for name in ("sd-turbo", "lcm"))
    assert [table.steps for table in turbo.provider.driving(["generate"]).samplers] == [1]
    assert [table.steps for table in lcm.provider.driving(["generate"]).samplers] == [4]
    assert "1 steps, guidance 1 (trailing Euler" in turbo.remarks[0]


def test_tasks_with_an_image_need_a_sampler_that_can_start_midway(model_folder: Folder) -> None:
    folder = model_folder("sd15")
    assert read_source(folder, SourceOptions(steps="6")).tasks == (
        "generate",
        "inpaint",
    )  # PNDM has a history
    other = read_source(folder, SourceOptions(steps="6", scheduler="DDIMScheduler"))
    assert other.tasks == ("generate", "vary", "inpaint")


def test_negative_prompt_and_guidance_scale_follow_the_library(model_folder: Folder) -> None:
    model = read_source(model_folder("sd2"), SourceOptions(steps="3"))
    request = Request("a red apple", "generate", seed=5, negative="blurry", guidance={"text": 4.0})
    assert _psnr(model, request, model.native_size) >= 60.0
    with _generator(model, model.native_size) as generator:
        plain = generator.run(Request("a red apple", "generate", seed=5)).float_image
        changed = generator.run(request).float_image
    assert float(np.abs(plain - changed).max()) > 1e-3


def test_several_step_counts_make_a_table_each(model_folder: Folder) -> None:
    model = read_source(model_folder("sd2"), SourceOptions(steps="4,2"))
    assert [table.steps for table in model.provider.driving(["generate"]).samplers] == [4, 2]
    request = Request("a red apple", "generate", seed=5, steps=2)
    assert _psnr(model, request, model.native_size) >= 60.0


def test_another_autoencoder_takes_the_place_of_the_folder_s(model_folder: Folder, tmp_path: Path) -> None:
    from tests.microforge_export.providers.diffusers.tiny_models import tiny_vae

    tiny_vae().save_pretrained(tmp_path / "taesd")
    model = read_source(model_folder("sd-turbo"), SourceOptions(vae=tmp_path / "taesd"))
    assert model.provider.driving(["generate"]).latent.std == (1.0,) * 4
    assert _psnr(model, Request("a red apple", "generate"), model.native_size) >= 60.0


def test_other_sizes_get_literals_of_their_own(model_folder: Folder) -> None:
    model = read_source(model_folder("sdxl-turbo"), SourceOptions(steps="1"))
    sizes = [Size(height=64, width=64), Size(height=64, width=128)]
    components = model.provider.components(sizes, ["generate"])
    literals = [
        spec.default
        for item in components
        if item.role == "unet"
        for spec in item.inputs
        if spec.name == "time_ids"
    ]
    assert literals == [(64.0, 64.0, 0.0, 0.0, 64.0, 64.0), (64.0, 128.0, 0.0, 0.0, 64.0, 128.0)]


def test_a_size_that_cannot_be_halved_is_refused(model_folder: Folder) -> None:
    model = read_source(model_folder("sd-turbo"))
    with pytest.raises(SpecError, match="must be multiples of 16"):
        model.provider.components([Size(height=72, width=64)], ["generate"])


def test_a_lora_is_folded_into_the_weights(model_folder: Folder, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra [diffusers]")
    from tests.microforge_export.providers.diffusers.lora_files import write_lora

    file = write_lora(model_folder("sd-turbo"), tmp_path / "style.safetensors")
    request, size = Request("a red apple", "generate"), Size(height=64, width=64)
    plain = read_source(model_folder("sd-turbo")).provider.reference(request, size)
    model = read_source(model_folder("sd-turbo"), SourceOptions(loras=(f"{file}:0.8",)))
    assert psnr_db(plain, model.provider.reference(request, size)) < 50.0
    assert _psnr(model, request, size) >= 60.0
