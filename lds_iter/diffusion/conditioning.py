"""What a model is told beside the image and the time, for each sample of a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

SHARED = frozenset(
    {"img_ids", "txt_ids", "image_rotary_emb", "rotary_emb", "freqs_cis", "rope_interpolation_scale", "image_size"}
)
"""Arguments of diffusers' transformers that say where tokens lie, the same for all samples of a batch."""


def check_conditioning(name: str, given: Mapping[str, Any], batch: int, shared: Collection[str]) -> None:
    """Every tensor leads with the batch, in lists and dictionaries too, but for what is shared.

    Raises:
        ValueError: names the argument, and what to type.
    """
    for key, value in given.items():
        if key not in shared and key not in SHARED:
            _check(f"{name}[{key!r}]", key, value, batch)


def _check(where: str, key: str, value: Any, batch: int) -> None:
    if isinstance(value, Tensor) and value.ndim and len(value) != batch:
        raise ValueError(
            f"`{where}` must lead with the batch of `noise`, {batch}, got the shape {(*value.shape,)}. If it is the "
            f"same for all samples, type shared=({key!r},)."
        )
    if isinstance(value, Mapping):
        for name, entry in value.items():
            _check(f"{where}[{name!r}]", key, entry, batch)
    if isinstance(value, list | tuple):
        for entry in value:
            _check(where, key, entry, batch)


def check_pair(conditioning: Mapping[str, Any], unconditional: Mapping[str, Any] | None, scale: Any) -> None:
    """Guidance is between two things with the same names, and is not asked for without the second."""
    if unconditional is None:
        if isinstance(scale, Tensor) or scale != 1:
            raise ValueError(
                f"`guidance_scale` {scale} is between two predictions, and `unconditional` is missing: what the model "
                "is told for the one to steer away from, such as {'encoder_hidden_states': empty_prompt}. For no "
                "guidance, leave `guidance_scale` out."
            )
        return
    if set(conditioning) != set(unconditional):
        raise ValueError(
            "`unconditional` must have the keys of `conditioning`, "
            f"{sorted(conditioning)}, got {sorted(unconditional)}."
        )


def mapped(conditioning: Mapping[str, Any], shared: Collection[str], change: Callable[[Tensor], Tensor]) -> dict:
    """The same with every tensor of a sample's own changed, in lists and dictionaries too."""
    return {
        key: value if key in shared or key in SHARED else _mapped(value, change) for key, value in conditioning.items()
    }


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value) if value.ndim else value
    if isinstance(value, Mapping):
        return {name: _mapped(entry, change) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, change) for entry in value)
    return value


def appended(first: Mapping[str, Any], second: Mapping[str, Any], shared: Collection[str]) -> dict[str, Any]:
    """One batch after the other."""
    return {
        key: value if key in shared or key in SHARED else _appended(first[key], value) for key, value in second.items()
    }


def _appended(first: Any, second: Any) -> Any:
    if isinstance(second, Tensor):
        return torch.cat([first, second]) if second.ndim else second
    if isinstance(second, Mapping):
        return {name: _appended(first[name], value) for name, value in second.items()}
    if isinstance(second, list | tuple):
        return type(second)(_appended(*pair) for pair in zip(first, second, strict=True))
    return second
