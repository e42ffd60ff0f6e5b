"""Callbacks of a pipeline: those that only watch are called once a step, with the solved latents.

A call is first solved without its callback; the last walk calls it, in order. If it changes something there, the call
is solved once more, with the callback in every walk.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lds_iter.diffusion.replay.refusal import PipelineNotMapped
from lds_iter.diffusion.replay.trees import own_copy, same

CALLBACK, INPUTS, OLD = "callback_on_step_end", "callback_on_step_end_tensor_inputs", "callback"


class Steered(Exception):
    """A callback has changed something that the steps behind it depend on."""


def by_name(pipe: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call, by name.

    Raises:
        TypeError: for arguments that the pipeline does not take.
    """
    signature = inspect.signature(type(pipe).__call__)
    given = dict(signature.bind(pipe, *args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind == inspect.Parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    del given[next(iter(signature.parameters))]
    return given


def silenced(given: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that take the callbacks out of a call."""
    return {name: None for name in (CALLBACK, OLD) if given.get(name) is not None}


def watched(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that put what watches the callbacks in their places."""
    changes: dict[str, Any] = {}
    if given.get(CALLBACK) is not None:
        changes[CALLBACK] = Watched(pipe, given[CALLBACK])
        tensors = getattr(given[CALLBACK], "tensor_inputs", None)
        if tensors is not None:  # what the pipeline looks up of a `PipelineCallback`
            changes[INPUTS] = tensors
    if given.get(OLD) is not None:
        changes[OLD] = WatchedOld(given[OLD])
    return changes


@dataclass
class Watched:
    """A callback for the end of a step, and whether it only watches."""

    pipe: Any
    callback: Any
    before: dict[str, Any] = field(default_factory=dict)

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        given, attributes, networks = own_copy(dict(tensors)), dict(vars(self.pipe)), settings_of(self.pipe)
        returned = self.callback(pipe, step, timestep, tensors)
        if settings_of(self.pipe) != networks:
            raise PipelineNotMapped(
                self.pipe,
                "its callback changes a network between two steps, which one batch for all steps cannot follow",
            )
        after = {**tensors, **(returned or {})}
        if not same(after, {name: given.get(name) for name in after}) or _changed(attributes, vars(self.pipe)):
            raise Steered
        return returned


@dataclass
class WatchedOld:
    """A callback of the old form, `callback(step, timestep, latents)`."""

    callback: Any

    def __call__(self, step: int, timestep: Any, latents: torch.Tensor) -> None:
        given = latents.clone()
        self.callback(step, timestep, latents)
        if not torch.equal(given, latents):
            raise Steered


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether attributes of the pipeline are others; to interrupt it is right as it is."""
    names = (set(before) | set(now)) - {"_interrupt"}
    return any(name not in before or name not in now or not same(before[name], now[name]) for name in names)


def settings_of(pipe: Any) -> list[Any]:
    """The plain attributes of all modules, and of what processes their attention: scales, switches."""
    found = []
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            for module in component.modules():
                processor = getattr(module, "processor", None)
                found.append(_plain_attributes(vars(module)))
                found.append(_plain_attributes(getattr(processor, "__dict__", {})))
    return found


def _plain_attributes(attributes: Mapping[str, Any]) -> list[Any]:
    simple = (str, int, float, bool, type(None))
    return [
        (name, list(value) if isinstance(value, list) else value)
        for name, value in attributes.items()
        if all(isinstance(leaf, simple) for leaf in pytree.tree_leaves(value))
    ]
