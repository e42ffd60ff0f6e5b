"""One call of a pipeline, whose loop can be walked as often as one likes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.company import differs
from lds_iter.diffusion.replay.exchange import Exchange, StandIn
from lds_iter.diffusion.replay.learn import Learn
from lds_iter.diffusion.replay.randomness import Generators
from lds_iter.diffusion.replay.refusal import (
    PipelineInterrupted,
    check_pipeline,
    refuse_batch,
    refuse_two_schedulers,
)
from lds_iter.diffusion.replay.requests import Key, Request, evaluate_together
from lds_iter.diffusion.replay.trees import equal_trees, own_copy, unknown
from lds_iter.diffusion.replay.walks import AbstractWalk, Ask, Done, Facts, Finish

ENCODERS = ("encode", "get_text_features", "get_image_features")
"""Methods of components by which pipelines call them before the loop, other than by calling the component."""


class Loop:
    """A context: inside, the pipeline's scheduler and components are exchanged; outside, they are as they were.

    Args:
        pipe: any diffusers pipeline with one scheduler.
        given: the arguments of its call.
        max_batch: most images in one call of a network; None for no limit.
        shapes: results of networks of former calls, by what they were asked; this one adds its own. With them the first
            step need not be evaluated before the others.
        replicas: calls of networks on several devices, by component.
    """

    def __init__(
        self,
        pipe: Any,
        given: Mapping[str, Any],
        max_batch: int | None,
        shapes: dict[Any, Any] | None = None,
        replicas: Mapping[str, Sequence[Callable[..., Any]]] | None = None,
    ) -> None:
        self.replicas = replicas
        self.pipe, self.given, self.max_batch = pipe, dict(given), max_batch
        self.shapes = {} if shapes is None else shapes
        self.facts = Facts()
        self.memory: dict[Key, tuple[Any, Any]] = {}
        self.answers: dict[Key, Any] = {}
        self.rounds = self.checks = 0
        self._checked: set[str] = set()
        self._changed: dict[str, Any] = {}
        self._exchange = Exchange()
        self._walk: AbstractWalk | None = None
        self._refuse_two = functools.partial(refuse_two_schedulers, pipe)

    def __enter__(self) -> Loop:
        scheduler, self.real_step = check_pipeline(self.pipe)
        self.generators = Generators(self.given, self._device())
        self._start = self.generators.states()
        self._found = [(each, dict(vars(each))) for each in (scheduler, self.pipe)]
        try:
            self._exchange_all(scheduler)
        except BaseException:
            self._exchange.undo()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exchange.undo()
        if kind is None:  # the scheduler is left as the pipeline would leave it
            return
        for each, attributes in self._found:
            vars(each).clear()
            vars(each).update(attributes)
        self.generators.set(self._start)

    def _device(self) -> torch.device:
        return torch.device(getattr(self.pipe, "_execution_device", "cpu"))

    def _exchange_all(self, scheduler: Any) -> None:
        put = self._exchange.put
        put(scheduler, "step", StandIn(self.real_step, self._on_step, self._refuse_two))
        bar = dict(getattr(self.pipe, "_progress_bar_config", None) or {})
        put(self.pipe, "_progress_bar_config", {**bar, "disable": True})
        for name, component in self.pipe.components.items():
            if component is None:
                continue
            if component is not scheduler and hasattr(component, "step") and hasattr(component, "set_timesteps"):
                put(component, "step", StandIn(component.step, self._refuse_two, self._refuse_two))
            if isinstance(component, torch.nn.Module):
                self._exchange_module(name, component)

    def _exchange_module(self, name: str, module: torch.nn.Module) -> None:
        # Above the forward method, so that hooks of the component, compiled code and wrappers stay as they are.
        real = module._compiled_call_impl or module._call_impl
        self._exchange.put(module, "_compiled_call_impl", functools.partial(self._on_call, name, real))
        for method in ENCODERS:
            real = getattr(module, method, None)
            if callable(real):
                called = functools.partial(self._on_call, f"{name}.{method}", real)
                self._exchange.put(module, method, StandIn(real, called))
        real = getattr(module, "decode", None)
        if callable(real):
            self._exchange.put(module, "decode", StandIn(real, functools.partial(self._on_decode, real)))

    def _on_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.real_step(*args, **kwargs) if self._walk is None else self._walk.on_step(*args, **kwargs)

    def _on_call(self, name: str, real: Any, /, *args: Any, **kwargs: Any) -> Any:
        walk, self._walk = self._walk, None
        if walk is None:  # a component inside of another one's call
            return real(*args, **kwargs)
        try:
            return walk.on_network(name, real, args, kwargs)
        finally:
            self._walk = walk

    def _on_decode(self, real: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self._walk is not None and not self._walk.decodes:
            raise Done
        walk, self._walk = self._walk, None
        try:
            return real(*args, **kwargs)
        finally:
            self._walk = walk

    def walk(self, walk: AbstractWalk, **changed: Any) -> Any:
        """Call the pipeline; None where the walk ends early. `changed`: arguments of the call."""
        if self.rounds and getattr(self.pipe, "_interrupt", False):
            raise PipelineInterrupted(
                "`_interrupt` was set while the steps were being solved: nothing is finished yet."
            )
        self.generators.set(self._start)
        self._walk = walk
        try:
            return type(self.pipe).__call__(self.pipe, **{**self.given, **changed})
        except Done:
            return None
        finally:
            self._walk = None
            if not walk.decodes and getattr(self.pipe, "_interrupt", False):
                self.pipe._interrupt = False  # by a callback; what is set between two walks comes from outside

    def learn(self, **changed: Any) -> Facts:
        """The first walk; `changed` holds for those that follow it too, but for the last."""
        if getattr(self.pipe, "_interrupt", False):
            self.pipe._interrupt = False  # of a call before this one
        self._changed = changed
        walk = Learn(self)
        self.facts = walk.facts
        self.walk(walk, **changed)
        new = [each for each in walk.evaluated if each[0].name in self.facts.networks]
        self.rounds = int(bool(new))
        self.shapes |= {request.signature(): unknown(result) for request, result in new}
        return self.facts

    def bodies(self, samples: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """What the scheduler's step would be told at some steps, from the samples `(B, *shape)` that lead there."""
        known: dict[Key, Any] = {}
        while True:
            walk = Ask(self, samples, known)
            self.walk(walk, **self._changed)
            if not walk.asked:
                return {step: walk.outputs[step] for step in samples}
            found = self._evaluated(walk.asked)
            known |= found
            self.answers |= found
            self.rounds += 1

    def entered(self, samples: Mapping[int, Tensor]) -> list[Tensor]:
        """The samples that each step is given when those before it have left `samples`; no network is asked."""
        walk = Ask(self, samples, {}, asks=False)
        self.walk(walk, **self._changed)
        return [walk.entered[step] for step in range(len(self.facts.times))]

    def finish(self, trajectory: Tensor | None, **changed: Any) -> Any:
        """The last walk: what the pipeline returns."""
        return self.walk(Finish(self, trajectory, self.answers), **changed)

    def remembered(self, request: Request) -> Any:
        """The result of a call before or in the first step, which is the same in every walk."""
        kept = self.memory.get(request.key)
        if kept is None or not equal_trees(kept[0], (request.name, (request.args, request.kwargs))):
            result = request.call(*request.args, **request.kwargs)
            self.memory[request.key] = ((request.name, own_copy((request.args, request.kwargs))), result)
        return own_copy(self.memory[request.key][1])

    def open(self, request: Request) -> bool:
        """Whether a call in the first step is left to the batch, since the first walk did not evaluate it."""
        return request.name in self.facts.networks and request.key not in self.memory

    def _evaluated(self, asked: list[Request]) -> dict[Key, Any]:
        """The results, and for the first batch of each network a check that it treats its images one by one."""
        new = {request.name for request in asked if request.name not in self._checked}
        alone = [each for each in self.facts.alone.values() if each[0].name in new]
        batch = len(self.facts.first)
        before = self.generators.states()
        try:
            together = [*asked, *(request for request, _ in alone)]
            results = evaluate_together(together, batch, self.max_batch, self.replicas)
        except (RuntimeError, ValueError, IndexError) as error:
            refuse_batch(self.pipe, f"a call with several steps in one batch failed with `{error}`", error)
        self.generators.set(before)
        for request, due in alone:
            if differs(results.pop(request.key), due):
                refuse_batch(self.pipe, f"`{request.name}` does not treat the images of a batch one by one")
        self.checks += batch * bool(alone)
        self._checked |= new
        return results
