"""Autocast is for `f` alone: it holds in every call of `f`, in the backward pass too, and nowhere else in a solve.

The scans, the methods' algebra and the states keep full precision. `f` keeps the autocast that it was solved under, for
a backward pass mostly runs after autocast has ended, and would differentiate another function without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lds_iter._torch import autocast_is_on
from lds_iter.derivatives.autodiff import Autodiff
from lds_iter.recurrence import EVALUATED_PARTS, Function


class UnderAutocast:
    """A function that is called as autocast is now.

    Args:
        f: the function. What else it offers is its own, under the same autocast.
        device: the type of device whose autocast is meant.
    """

    def __init__(self, f: Function, device: str) -> None:
        self.f, self._device, self._dtype = f, device, torch.get_autocast_dtype(device)
        self.__code__ = getattr(f, "__code__", None)  # `Auto` tells recurrences apart by their code

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        with self._autocast():
            return self.f(s, inputs)

    def __getattr__(self, name: str) -> Any:
        if name == "f" or name.startswith("__"):  # not there yet in a copy that is being made
            raise AttributeError(name)
        part = getattr(self.f, name)
        return self._within(part) if name in EVALUATED_PARTS and callable(part) else part

    def _within(self, part: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            with self._autocast():
                return part(*args, **kwargs)

        return called

    def _autocast(self) -> torch.autocast:
        # Its cache would keep weights that were cast without a graph for the call that wants one.
        return torch.autocast(self._device, self._dtype, cache_enabled=False)


def keep_autocast(f: Function, s0: Tensor) -> Function:
    """`f`, which autocast, if it is on where `s0` lives, stays on for, wherever `f` is called later."""
    if not autocast_is_on(s0.device.type):
        return f
    if isinstance(f, Autodiff):
        return Autodiff(UnderAutocast(f.f, s0.device.type), f.refusals)
    return UnderAutocast(f, s0.device.type)
