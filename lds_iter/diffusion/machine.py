"""A prepared copy of a scheduler that can be stepped, read and written."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.diffusion.spread import learned_kind


@contextmanager
def quiet_generators() -> Iterator[None]:
    """Torch's own generator of the CPU comes out as it went in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@dataclass(frozen=True)
class Machine:
    """A prepared copy of a scheduler: run it, and read and write what it remembers."""

    scheduler: Any
    options: Mapping[str, Any]
    generator: Any

    @staticmethod
    def of(scheduler: Any, options: Mapping[str, Any]) -> Machine:
        return Machine(copy.deepcopy(scheduler), options, torch.Generator().manual_seed(0))

    def tell_no_variance(self) -> None:
        """Let it take the least variance where it would be told one, which is a factor of the noise alone."""
        if learned_kind(self.scheduler) is not None:
            self.scheduler.register_to_config(variance_type="fixed_small")
            if hasattr(self.scheduler, "variance_type"):
                self.scheduler.variance_type = "fixed_small"

    def memory(self, shape: torch.Size) -> dict[str, Tensor]:
        """Its tensors of the sample's shape, by name; those in lists by position from the end."""
        found: dict[str, Tensor] = {}
        for name, value in vars(self.scheduler).items():
            entries = enumerate(value, -len(value)) if isinstance(value, list) else [(None, value)]
            for place, entry in entries:
                if isinstance(entry, Tensor) and entry.shape == shape:
                    found[name if place is None else f"{name}[{place}]"] = entry
        return found

    def remember(self, name: str, value: Tensor) -> None:
        """Overwrite one of them."""
        attribute, _, place = name.rstrip("]").partition("[")
        if not place:
            setattr(self.scheduler, attribute, value)
            return
        entries = list(getattr(self.scheduler, attribute))
        entries[int(place)] = value
        setattr(self.scheduler, attribute, entries)

    def forget(self, shape: torch.Size) -> None:
        """Overwrite all of them by zeros."""
        for name, value in self.memory(shape).items():
            self.remember(name, torch.zeros_like(value))

    def scaled(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """What the network sees of a sample."""
        scale = getattr(self.scheduler, "scale_model_input", None)
        return sample if scale is None else scale(sample, timestep)

    def step(self, output: Tensor, timestep: Tensor, sample: Tensor) -> Tensor:
        """The next sample."""
        accepted = inspect.signature(self.scheduler.step).parameters
        draws = {"generator": self.generator} if "generator" in accepted else {}
        return self.scheduler.step(output, timestep, sample, return_dict=False, **draws, **self.options)[0]
