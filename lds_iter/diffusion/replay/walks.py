"""Walks through a pipeline's loop: what they share, the one that asks its networks, and the one that finishes."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.diffusion.replay.refusal import refuse_more_steps, refuse_unrepeatable
from lds_iter.diffusion.replay.requests import Key, Request
from lds_iter.diffusion.replay.trees import equal_trees, open_to, own_copy, unknown


class Done(Exception):
    """Nothing that is left of a walk matters."""


@dataclass
class Facts:
    """What the first walk learns.

    Attributes:
        times: what `scheduler.step` is told, a list entry per step.
        options: more arguments of `scheduler.step`.
        generator: what it draws from.
        first: the sample that the first step gets.
        scheduler: the attributes of the scheduler before its first step.
        states: of the generators before the first step.
        alone: what the networks were asked at the first step, and said.
        networks: the names of those that are called in the loop.
        calls: how many calls of networks a step makes.
        images: how many images the largest of them is given.
        templates: a result of each network, for its shapes.
    """

    times: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    generator: Any = None
    first: Any = None
    scheduler: dict[str, Any] = field(default_factory=dict)
    states: list[Tensor] = field(default_factory=list)
    alone: dict[Key, tuple[Request, Any]] = field(default_factory=dict)
    networks: set[str] = field(default_factory=set)
    calls: int = 0
    images: int = 0
    templates: dict[str, Any] = field(default_factory=dict)


class AbstractWalk(ABC):
    """One call of the pipeline, of a `Loop`. `step` and `call` say where it is."""

    decodes = False

    def __init__(self, loop: Any) -> None:
        self.loop, self.step, self.call = loop, 0, 0

    def on_network(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In place of a component's call."""
        key, self.call = (self.step, self.call), self.call + 1
        return self.answer(Request(key, name, call, args, kwargs))

    def on_step(self, *args: Any, **kwargs: Any) -> Any:
        """In place of `scheduler.step`."""
        bound = inspect.signature(self.loop.real_step).bind(*args, **kwargs).arguments
        options = {name: value for name, value in bound.items() if name not in ("model_output", "timestep", "sample")}
        step, self.step, self.call = self.step, self.step + 1, 0
        return self.stepped(step, bound["model_output"], bound["timestep"], bound["sample"], options)

    @abstractmethod
    def answer(self, request: Request) -> Any:
        """What a component answers."""

    @abstractmethod
    def stepped(self, step: int, output: Tensor, time: Any, sample: Tensor, options: dict[str, Any]) -> Any:
        """What `scheduler.step` answers."""

    def passed_over(
        self, output: Tensor, time: Any, sample: Tensor, options: Mapping[str, Any], instead: Tensor
    ) -> Any:
        """Let the scheduler count a step, on a number of its own, and answer with `instead` in its answer's form."""
        small = sample.new_zeros(1, sample.shape[1], *[1] * (sample.ndim - 2))
        told = small if output.shape[1] == sample.shape[1] else torch.cat([small, small], 1)
        options = dict(options)
        if options.get("generator") is not None or "generator" in inspect.signature(self.loop.real_step).parameters:
            options["generator"] = torch.Generator(sample.device).manual_seed(0)
        result = self.loop.real_step(told.clone(), time, small.clone(), **options)
        return pytree.tree_map(lambda leaf: instead.clone() if isinstance(leaf, Tensor) else leaf, result)


class Ask(AbstractWalk):
    """Puts down what the networks are asked at some steps, whose samples it hands out.

    Args:
        samples: by the step that gets them; NaN at others.
        known: answers found already.
        asks: whether anything is put down.
    """

    def __init__(
        self, loop: Any, samples: Mapping[int, Tensor], known: Mapping[Key, Any], *, asks: bool = True
    ) -> None:
        super().__init__(loop)
        self.samples, self.known, self.asks = samples, known, asks
        self.asked: list[Request] = []
        self.outputs: dict[int, Tensor] = {}
        self.entered: dict[int, Tensor] = {}

    def answer(self, request: Request) -> Any:
        if request.key[0] == 0 and not self.loop.open(request):
            return self.loop.remembered(request)
        if request.key in self.known:
            return own_copy(self.known[request.key])
        if self.asks and request.key[0] in self.samples and not open_to((request.args, request.kwargs)):
            self.asked.append(request)
        return unknown(self.loop.facts.templates[request.name])

    def stepped(self, step: int, output: Tensor, time: Any, sample: Tensor, options: dict[str, Any]) -> Any:
        self.outputs[step], self.entered[step] = output, sample.clone()
        facts = self.loop.facts
        if step == 0 and not equal_trees(sample, facts.first):
            refuse_unrepeatable(self.loop.pipe)
        if step + 1 == len(facts.times):
            raise Done
        following = self.samples.get(step + 1)
        instead = torch.full_like(sample, torch.nan) if following is None else following.to(sample.dtype, copy=True)
        return self.passed_over(output, time, sample, options, instead)


class Finish(AbstractWalk):
    """The pipeline itself, with the solved samples and the networks' last answers.

    Args:
        trajectory: the samples after each step, `(T, B, *shape)`; None where a single step is all there is.
        answers: of the networks.
    """

    decodes = True

    def __init__(self, loop: Any, trajectory: Tensor | None, answers: Mapping[Key, Any]) -> None:
        super().__init__(loop)
        self.trajectory, self.answers = trajectory, answers

    def answer(self, request: Request) -> Any:
        if request.key[0] == 0 and not self.loop.open(request):
            return self.loop.remembered(request)
        if request.key in self.answers:
            return own_copy(self.answers[request.key])
        return request.call(*request.args, **request.kwargs)

    def stepped(self, step: int, output: Tensor, time: Any, sample: Tensor, options: dict[str, Any]) -> Any:
        if step == 0:
            self.loop.pipe.scheduler.__dict__.update(copy.deepcopy(self.loop.facts.scheduler))
        if step >= len(self.loop.facts.times):
            refuse_more_steps(self.loop.pipe)
        result = self.loop.real_step(output, time, sample, **options)
        if self.trajectory is None:
            return result
        instead = self.trajectory[step].to(sample.dtype, copy=True)
        if isinstance(result, tuple):
            return (instead, *result[1:])
        result.prev_sample = instead
        return result
