"""What the options of the command line stand for: schedulers, methods, and the network."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import lds_iter as li

DIGITS = Path(__file__).parent / "digits"
"""The network that `recipes.diffusion.train` has made, and the scheduler it was trained under."""

NO_CLASS = 10
"""Its label for "any digit", which guidance steers away from."""


class SchedulerName(StrEnum):
    """What `--scheduler` takes."""

    ddim = "ddim"
    ddpm = "ddpm"
    euler = "euler"
    euler_ancestral = "euler-ancestral"
    dpm = "dpm"
    dpm_sde = "dpm-sde"
    heun = "heun"
    deis = "deis"
    unipc = "unipc"
    pndm = "pndm"
    lcm = "lcm"
    tcd = "tcd"


class MethodName(StrEnum):
    """What `--method` takes."""

    secant = "secant"
    structured = "structured"
    picard = "picard"
    hutchinson = "hutchinson"


def scheduler(name: SchedulerName, config: dict[str, Any]) -> Any:
    """The scheduler, with the network's noise schedule."""
    import diffusers

    table: dict[SchedulerName, tuple[str, dict[str, Any]]] = {
        SchedulerName.ddim: ("DDIMScheduler", {}),
        SchedulerName.ddpm: ("DDPMScheduler", {}),
        SchedulerName.euler: ("EulerDiscreteScheduler", {}),
        SchedulerName.euler_ancestral: ("EulerAncestralDiscreteScheduler", {}),
        SchedulerName.dpm: ("DPMSolverMultistepScheduler", {}),
        SchedulerName.dpm_sde: ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        SchedulerName.heun: ("HeunDiscreteScheduler", {"clip_sample": False}),
        SchedulerName.deis: ("DEISMultistepScheduler", {}),
        SchedulerName.unipc: ("UniPCMultistepScheduler", {}),
        SchedulerName.pndm: ("PNDMScheduler", {}),
        SchedulerName.lcm: ("LCMScheduler", {}),
        SchedulerName.tcd: ("TCDScheduler", {}),
    }
    kind, options = table[name]
    return getattr(diffusers, kind).from_config(config, **options)


def method(name: MethodName) -> li.LDSApproximation:
    """The method of the solve."""
    from lds_iter.diffusion.secant import Secant
    from lds_iter.diffusion.structured import Structured

    table: dict[MethodName, li.LDSApproximation] = {
        MethodName.secant: Secant(),
        MethodName.structured: Structured(),
        MethodName.picard: li.Picard(),
        MethodName.hutchinson: li.Clipped(li.QuasiNewton(li.Hutchinson()), 1.1),
    }
    return table[name]


def load(model: str, device: str) -> tuple[Any, dict[str, Any]]:
    """The network and the configuration of its scheduler, from a folder or a hub id.

    Raises:
        ValueError: when there is no such model or device; says what to type instead.
    """
    import torch
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()
    where = Path(model)
    half = any(where.glob("unet/*.fp16.safetensors"))
    try:
        unet: Any = UNet2DModel.from_pretrained(model, subfolder="unet", variant="fp16" if half else None)
        config: Any = DDPMScheduler.load_config(model, subfolder="scheduler")
    except OSError as error:
        raise ValueError(
            f"No model at {model!r}: a folder or a hub id with `unet/` and `scheduler/` is expected, such as "
            f"{str(DIGITS)!r}. diffusers says: {error}"
        ) from error
    try:
        return unet.float().to(torch.device(device)).eval(), config
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"No device {device!r} here, where `cpu` always is. torch says: {error}") from error
