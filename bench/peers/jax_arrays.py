"""Between torch and JAX, and whether JAX has the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.peers.base import load, not_installed


def reason(device: str) -> str:
    """Why JAX cannot run on the device; empty when it can."""
    missing = not_installed("jax", "'jax[cuda13]'" if torch.device(device).type == "cuda" else "jax")
    if missing:
        return missing
    backend = load("jax").default_backend()
    wanted = "gpu" if torch.device(device).type == "cuda" else "cpu"
    return "" if backend == wanted else f"JAX runs on the {backend} here, not on the {wanted}"


def to_jax(tensor: Tensor) -> Any:
    """A copy on JAX's default device."""
    return load("jax.numpy").asarray(tensor.detach().cpu().numpy())


def from_jax(arrays: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Copies in torch."""
    numpy = load("numpy")
    return tuple(torch.from_numpy(numpy.array(array)) for array in arrays)
