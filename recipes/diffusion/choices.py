"""What the options of the command line stand for: schedulers, methods, and the network."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

import lds_iter as li
from recipes.files import reading

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


def scheduler(name: SchedulerName, config: dict[str, Any], *, clip: bool = True) -> Any:
    """The scheduler, with the network's noise schedule; without its clipping of images where `clip` is false."""
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
    unclipped = {} if clip else {"clip_sample": False, "thresholding": False}
    return getattr(diffusers, kind).from_config(config, **{**options, **unclipped})


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
    if not where.is_dir() and model.count("/") != 1:
        raise ValueError(
            f"No folder {model!r} here, and no hub id, which is OWNER/NAME. Expected is a folder with `unet/` and "
            f"`scheduler/`, such as {str(DIGITS)!r}."
        )
    _check_kind(where)
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


def _check_kind(where: Path) -> None:
    """The network of a folder is one of images alone."""
    config = where / "unet" / "config.json"
    kind = "UNet2DModel"
    if config.exists():
        with reading(config, f"Choose another --model, such as {str(DIGITS)!r}."):
            kind = json.loads(config.read_text()).get("_class_name", kind)
    if kind != "UNet2DModel":
        raise ValueError(
            f"The network in {str(where)!r} is a `{kind}`, which wants a text: this program needs a `UNet2DModel`. "
            "In Python: pipe = DiffusionPipeline.from_pretrained(folder); "
            "fast = lds_iter.diffusion.parallelize(pipe); fast('a cat')."
        )


def null_class(model: str, unet: Any, given: int | None) -> int:
    """The label that guidance steers away from.

    Raises:
        ValueError: where it is not known, or no label of the network.
    """
    classes = unet.config.get("num_class_embeds")
    if not classes:
        raise ValueError("The network knows no classes, and guidance is between one and another: leave out --guidance.")
    if given is None and Path(model) != DIGITS:
        raise ValueError(
            f"--guidance steers away from the label for any image, which each network has its own of: type "
            f"--null-class, often {classes - 1}, the last one."
        )
    label = NO_CLASS if given is None else given
    if not 0 <= label < classes:
        raise ValueError(
            f"--null-class must be one of the network's {classes} labels, 0 to {classes - 1}, got {label}."
        )
    return label
