"""What the networks of a loop were asked at several steps, evaluated in one batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.diffusion.conditioning import SHARED
from lds_iter.diffusion.replicas import in_lanes

Key = tuple[int, int]
"""Step of the loop, and which call of a network in it."""


@dataclass(frozen=True)
class Request:
    """A call of a network.

    Attributes:
        key: when.
        name: of the component.
        call: evaluates it.
        args, kwargs: of the call.
    """

    key: Key
    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def batch(self) -> int:
        """How many images: the length of its first tensor with more than one dimension."""
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return next((len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim > 1), 1)

    def signature(self) -> Any:
        """Equal for requests that can be joined."""
        leaves, spec = pytree.tree_flatten((self.args, self.kwargs))
        return self.name, str(spec), tuple(_kind(leaf) for leaf in leaves)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return (type(leaf), leaf) if isinstance(leaf, str | int | float | bool | type(None)) else id(leaf)


def evaluate_together(
    requests: Sequence[Request],
    samples: int,
    max_batch: int | None,
    replicas: Mapping[str, Sequence[Callable[..., Any]]] | None = None,
) -> dict[Key, Any]:
    """The results of all, in as few calls as may be.

    Args:
        requests: of any networks.
        samples: the batch of the loop. A request with more images has several predictions of each, for guidance.
        max_batch: most images in one call; None for no limit.
        replicas: calls on several devices, of some networks, in place of the requests' own.
    """
    groups: dict[Any, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.signature(), []).append(request)
    results: dict[Key, Any] = {}
    for rows in groups.values():
        calls = (replicas or {}).get(rows[0].name, [rows[0].call])
        size = -(-len(rows) // len(calls))
        if max_batch is not None:
            size = max(1, min(size, max_batch // rows[0].batch))
        pieces = [rows[at : at + size] for at in range(0, len(rows), size)]
        jobs = [functools.partial(_in_lane, calls, piece, samples) for piece in pieces]
        for found in in_lanes(jobs, len(calls)):
            results |= found
    return results


def _in_lane(calls: Sequence[Any], rows: Sequence[Request], samples: int, lane: int) -> dict[Key, Any]:
    return _together(calls[lane], rows, samples)


def _together(call: Callable[..., Any], rows: Sequence[Request], samples: int) -> dict[Key, Any]:
    """One call for several steps, in the order (guidance, step, sample): some networks halve their batch."""
    first = rows[0]
    if len(rows) == 1:
        return {first.key: call(*first.args, **first.kwargs)}
    images = first.batch
    groups = max(1, images // samples)
    flat = [pytree.tree_flatten_with_path((row.args, row.kwargs)) for row in rows]
    paths = [path for path, _ in flat[0][0]]
    leaves = zip(*([leaf for _, leaf in each] for each, _ in flat), strict=True)
    joined = [_joined(path, values, images, groups) for path, values in zip(paths, leaves, strict=True)]
    args, kwargs = pytree.tree_unflatten(joined, flat[0][1])
    results, spec = pytree.tree_flatten(call(*args, **kwargs))
    parts = [_parts(leaf, len(rows), groups) for leaf in results]
    return {row.key: pytree.tree_unflatten([part[k] for part in parts], spec) for k, row in enumerate(rows)}


def _joined(path: Any, values: Sequence[Any], images: int, groups: int) -> Any:
    """One argument for all steps."""
    first = values[0]
    if not isinstance(first, Tensor):
        return first
    equal = all(value is first or torch.equal(value, first) for value in values[1:])
    if first.ndim == 0 or (first.ndim == 1 and len(first) == 1 != images):
        return first if equal else _guidance_major([value.expand(images) for value in values], groups)
    positions = first.ndim == 2 and any(str(getattr(key, "key", None)) in SHARED for key in path)
    if equal and (positions or len(first) % images):
        return first
    return _guidance_major(values, groups)


def _guidance_major(values: Sequence[Tensor], groups: int) -> Tensor:
    return torch.stack(tuple(values)).unflatten(1, (groups, -1)).transpose(0, 1).reshape(-1, *values[0].shape[1:])


def _parts(leaf: Any, steps: int, groups: int) -> Sequence[Any]:
    """One result for each step."""
    if not isinstance(leaf, Tensor):
        return [leaf] * steps
    return leaf.unflatten(0, (groups, steps, -1)).transpose(0, 1).flatten(1, 2).unbind()
