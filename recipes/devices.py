"""Where a recipe computes: the device that `--device` names, and how batches get there.

Data are read and simulated on the CPU, and random numbers are drawn there, so that a seed means the same numbers on
every device; then they move. An exception says so.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from torch import Tensor

CPU = torch.device("cpu")

DeviceName = Annotated[str, typer.Option("--device", help="Where to compute, such as cpu or cuda.")]


def device_of(name: str, dtype: torch.dtype = torch.float32) -> torch.device:
    """The device that `--device` names.

    Args:
        name: as torch has them, such as cpu, cuda or cuda:1.
        dtype: of the numbers that the recipe computes with. Not every device has float64.

    Raises:
        typer.BadParameter: when torch cannot compute there.
    """
    try:
        device = torch.device(name)
        torch.ones((), dtype=dtype, device=device).item()
    except (AssertionError, RuntimeError, TypeError) as error:
        raise typer.BadParameter(
            f"must be a device that computes in {dtype} here, such as cpu, got {name}. torch says: "
            f"{str(error).splitlines()[0]}",
            param_hint="--device",
        ) from error
    return device


def of_trainer(device: torch.device) -> dict[str, Any]:
    """The arguments by which Lightning's `Trainer` computes on a device."""
    return {
        "accelerator": device.type,
        "devices": 1 if device.type == "cpu" or device.index is None else [device.index],
    }


def pins(device: torch.device) -> bool:
    """Whether batches for a device are kept in pinned memory, from which a CUDA GPU copies while it computes.

    Nothing is pinned for other devices: without such a GPU torch has no pinned memory.
    """
    return device.type == "cuda"


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU, in pinned memory where its way leads to a CUDA GPU."""
    return x.pin_memory() if pins(device) else x


def put(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on the device. The program does not wait for a copy to a CUDA GPU.

    A plain `x.to("cuda")` waits until the GPU has done all that it was asked for before.
    """
    return pinned(x, device).to(device, non_blocking=pins(device))
