"""A user's log density, of positions in one tensor, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lds_iter.carries.packing import Packing
from lds_iter.derivatives.over_rows import over_rows
from lds_iter.derivatives.pullback import value_and_gradient
from lds_iter.derivatives.refusals import Refusals
from lds_iter.errors import note_source, shapes_of

LogDensity = Callable[[Any], Tensor]
"""From a position, a tensor or a pytree of tensors, to the log of its density, up to a constant."""

FOR_ALL_POSITIONS = (
    "`logdensity` is called for all positions at once by torch.func.vmap. In order of likelihood: it checks arguments "
    "(type validate_args=False for torch.distributions); it branches on a value (type torch.where); it draws random "
    "numbers. One that takes positions with any leading dimensions, (..., D) to (...), is called without vmap."
)
"""For errors of `torch.func.vmap`."""


@dataclass(frozen=True)
class Target:
    """What a sampler evaluates.

    Attributes:
        packing: how a position lies in `(..., D)`.
        logdensity: of the user; None for a sampler that asks for none.
        batched: whether `logdensity` takes any number of leading dimensions itself; else vmap calls it.
        refusals: what `logdensity` has refused of autodiff, in all moves.
    """

    packing: Packing
    logdensity: LogDensity | None
    batched: bool
    refusals: Refusals = field(default_factory=Refusals, repr=False, compare=False)

    def value(self, s: Tensor) -> Tensor:
        """The log density of positions `(..., D)`, of shape `(...)`."""
        return self._one(s) if self.batched else self._mapped(self._one, s)

    def value_and_gradient(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """The log density, `(...)`, and its gradient, `(..., D)`."""
        return self._sloped(s) if self.batched else self._mapped(self._sloped, s)

    def _one(self, s: Tensor) -> Tensor:
        assert self.logdensity is not None
        position = self.packing.unpack(s)
        try:
            return self.logdensity(position).to(s.dtype)
        except Exception as error:
            note_source(error, f"`logdensity`, called with positions {shapes_of(position)}.")
            raise

    def _sloped(self, s: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(self._one, s, self.refusals)

    def _mapped(self, function: Callable[[Tensor], Any], s: Tensor) -> Any:
        lead = s.shape[:-1]
        found = over_rows("logdensity", function, (s.reshape(-1, s.shape[-1]),), self.refusals, FOR_ALL_POSITIONS)
        if isinstance(found, Tensor):
            return found.reshape(lead + found.shape[1:])
        return tuple(part.reshape(lead + part.shape[1:]) for part in found)


def make_target(packing: Packing, logdensity: LogDensity | None, position: Tensor) -> Target:
    """The target of a log density, which is looked at near one position, `(D)`.

    Raises:
        TypeError, ValueError: for a `logdensity` that returns no number for a position.
    """
    if logdensity is None:
        return Target(packing, None, True)
    if isinstance(logdensity, type) or not callable(logdensity):
        raise TypeError(f"`logdensity` must be a function from a position to a number, got {logdensity!r}.")
    with torch.no_grad():
        near = torch.linspace(0, 1e-3, 6, dtype=position.dtype, device=position.device).view(3, 2, 1)
        rows = position + near * (1 + position.abs())
        many, one = (_tried(logdensity, packing, part) for part in (rows, position))
        if isinstance(many, Tensor) and many.shape == (3, 2) and not (isinstance(one, Tensor) and one.ndim):
            each = [_tried(logdensity, packing, row) for row in rows.flatten(0, 1)]
            alone = [value for value in each if isinstance(value, Tensor) and value.ndim == 0]
            if len(alone) < len(each) or _agree(many.flatten(), torch.stack(alone)):
                return Target(packing, logdensity, True)
    if isinstance(one, Exception):
        note_source(one, "`logdensity`, called with one position without a batch, and with a batch (3, 2).")
        raise one
    if not isinstance(one, Tensor) or one.ndim or not one.is_floating_point():
        got = f"{one.dtype} {tuple(one.shape)}" if isinstance(one, Tensor) else repr(one)
        raise ValueError(
            f"`logdensity` must return a tensor without dimensions for one position, got {got}. Type `.sum()` over the "
            "terms; for positions with leading dimensions `.sum(-1)`."
        )
    return Target(packing, logdensity, False)


def _tried(logdensity: LogDensity, packing: Packing, s: Tensor) -> Any:
    """The value, or the exception that came."""
    try:
        return logdensity(packing.unpack(s))
    except Exception as error:
        return error


def _agree(many: Tensor, alone: Tensor) -> bool:
    """Up to rounding in sums of thousands of terms."""
    return torch.allclose(many, alone.to(many.dtype), rtol=1e-3, atol=1e-3, equal_nan=True)
