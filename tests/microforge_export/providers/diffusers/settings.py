"""Scheduler settings of published models; ``python settings.py FOLDER`` writes the tables of ``GOLDEN`` to a folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers

from microforge_export.providers.diffusers.replay import measured_sampler
from microforge_export.providers.diffusers.sampling_loop import SchedulerLoop
from tests.microforge_export.providers.diffusers.tiny_models import BETAS

#: Name -> (scheduler, its configuration, steps, options of each step).
SETTINGS: Mapping[str, tuple[str, Mapping[str, Any], int, Mapping[str, Any]]] = {
    "ddim": ("DDIM", {"clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}, 20, {}),
    "ddim-eta": ("DDIM", {"clip_sample": False, "steps_offset": 1}, 20, {"eta": 1.0}),
    "ddim-v": (
        "DDIM",
        {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
        8,
        {},
    ),
    "ddim-sample": ("DDIM", {"clip_sample": False, "prediction_type": "sample"}, 8, {}),
    "ddpm": ("DDPM", {"clip_sample": False}, 20, {}),
    "pndm": ("PNDM", {"skip_prk_steps": True, "steps_offset": 1}, 20, {}),
    "euler": ("EulerDiscrete", {"timestep_spacing": "leading", "steps_offset": 1}, 20, {}),
    "euler-1": ("EulerDiscrete", {"timestep_spacing": "trailing"}, 1, {}),
    "euler-4": ("EulerDiscrete", {"timestep_spacing": "trailing"}, 4, {}),
    "euler-v-karras": ("EulerDiscrete", {"prediction_type": "v_prediction", "use_karras_sigmas": True}, 20, {}),
    "euler-ancestral": ("EulerAncestralDiscrete", {"timestep_spacing": "trailing"}, 4, {}),
    "lcm": ("LCM", {}, 4, {}),
    "tcd": ("TCD", {}, 4, {"eta": 0.3}),
    "dpm-2m": ("DPMSolverMultistep", {}, 20, {}),
    "dpm-2m-karras": ("DPMSolverMultistep", {"use_karras_sigmas": True}, 20, {}),
    "dpm-2m-3": ("DPMSolverMultistep", {}, 3, {}),
    "dpm-3m": ("DPMSolverMultistep", {"solver_order": 3}, 20, {}),
    "dpm-2m-sde": ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, 20, {}),
    "dpm-2m-flow": (
        "DPMSolverMultistep", {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}, 20, {},
    ),
    "dpm-2s": ("DPMSolverSinglestep", {"lower_order_final": True}, 20, {}),
    "flow-euler": ("FlowMatchEulerDiscrete", {"shift": 3.0}, 20, {}),
    "unipc": ("UniPCMultistep", {}, 20, {}),
    "deis": ("DEISMultistep", {}, 20, {}),
    "lms": ("LMSDiscrete", {}, 20, {}),
    "heun": ("HeunDiscrete", {}, 10, {}),
    "scm": ("SCM", {}, 2, {}),
}  # fmt: skip
#: Name of a setting -> steps of the table that all languages replay.
GOLDEN = {
    "ddim": 4, "pndm": 5, "euler-4": 4, "euler-ancestral": 4, "lcm": 4, "dpm-2m": 4, "unipc": 5, "lms": 5, "heun": 3, "flow-euler": 4,
}  # fmt: skip
_WITHOUT_BETAS = ("FlowMatchEulerDiscrete", "SCM")


def loop(name: str, steps: int | None = None) -> SchedulerLoop:
    """The loop of a setting."""
    scheduler, config, count, options = SETTINGS[name]
    betas = {} if scheduler in _WITHOUT_BETAS else BETAS
    made = getattr(diffusers, f"{scheduler}Scheduler")(**{**betas, **config})
    return SchedulerLoop(made, steps or count, step_options=options, evaluations=2 if name == "scm" else None)


def write_golden(folder: Path) -> None:
    """Write ``NAME.json`` for every setting of ``GOLDEN``."""
    folder.mkdir(exist_ok=True)
    for name, steps in GOLDEN.items():
        table = measured_sampler(loop(name, steps), steps).table
        (folder / f"{name}.json").write_text(table.model_dump_json(exclude_none=True) + "\n", "utf-8")


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
