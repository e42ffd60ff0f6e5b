"""The first walk through a pipeline's loop: what it is, and what its networks answer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.replay.randomness import equal
from lds_iter.diffusion.replay.refusal import refuse_drawing, refuse_random_network
from lds_iter.diffusion.replay.requests import Request
from lds_iter.diffusion.replay.trees import finite, own_copy
from lds_iter.diffusion.replay.walks import AbstractWalk, Done, Facts


class Learn(AbstractWalk):
    """Evaluates the first step; afterwards networks and scheduler answer with something finite of the right shape."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self.facts = Facts()
        self.evaluated: list[tuple[Request, Any]] = []
        self._drew: set[str] = set()
        self._states: list[Tensor] = []

    def answer(self, request: Request) -> Any:
        if self.step:
            self.facts.networks.add(request.name)
            self.facts.calls = max(self.facts.calls, self.call)
            self.facts.images = max(self.facts.images, request.batch)
            if request.name in self._drew:
                refuse_random_network(self.loop.pipe, request.name)
            if request.name in self.facts.templates:
                return own_copy(self.facts.templates[request.name])
        known = self.loop.shapes.get(request.signature())
        if known is not None:
            self.facts.networks.add(request.name)
            self.facts.templates.setdefault(request.name, finite(known))
            return finite(known)
        result = self._evaluated(request)
        if not self.step:
            self.loop.memory[request.key] = ((request.name, own_copy((request.args, request.kwargs))), result)
            self.facts.alone[request.key] = (request, result)
        self.facts.templates.setdefault(request.name, own_copy(result))
        return own_copy(result)

    def _evaluated(self, request: Request) -> Any:
        before = self.loop.generators.states()
        result = request.call(*request.args, **request.kwargs)
        if not equal(before, self.loop.generators.states()):
            self._drew.add(request.name)
        self.evaluated.append((request, result))
        return result

    def stepped(self, step: int, output: Tensor, time: Any, sample: Tensor, options: dict[str, Any]) -> Any:
        if step == 0:
            self._begin(sample, options)
        elif not equal(self._states, self.loop.generators.states()):
            refuse_drawing(self.loop.pipe)
        self.facts.times.append(time)
        answer = self.passed_over(output, time, sample, options, sample)
        self._states = self.loop.generators.states()
        if len(self.facts.times) == self._length:
            raise Done
        return answer

    def _begin(self, sample: Tensor, options: dict[str, Any]) -> None:
        scheduler, facts = self.loop.pipe.scheduler, self.facts
        facts.scheduler = copy.deepcopy({name: value for name, value in vars(scheduler).items() if name != "step"})
        facts.states = self.loop.generators.states()
        facts.generator = options.get("generator")
        facts.options = {name: value for name, value in options.items() if name not in ("generator", "return_dict")}
        facts.first = sample.clone()

    @property
    def _length(self) -> int:
        """How many steps there are if the loop goes through the scheduler's timesteps from its first one on."""
        times = torch.as_tensor(self.loop.pipe.scheduler.timesteps, device="cpu").flatten().double()
        begin = (times == float(self.facts.times[0])).nonzero().flatten()
        return len(times) - int(begin[0]) if len(begin) else -1
