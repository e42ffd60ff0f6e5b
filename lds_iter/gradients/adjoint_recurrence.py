"""The adjoint recurrence `l -> J^T l + g` as a recurrence that `loop` solves: linear, and reversed in time.

The derivatives of `f` along the solution do not change over the iterations, so what a method asks for is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter.derivatives.linearization import AbstractDerivatives, linearize
from lds_iter.loop.state import Workspace
from lds_iter.recurrence import take_rows
from lds_iter.solution import Result

Parts = dict[str, Tensor]
"""What a method has asked for: of the Jacobian `"full"`, `"diagonal"`, `"blocks 2"` and so on."""


class Fixed:
    """The derivatives of `f` at the solution; what a method asks for is computed once.

    Args:
        of_f: the derivatives.
        parts: what of them is known already.
    """

    def __init__(self, of_f: AbstractDerivatives, parts: Parts | None = None) -> None:
        self.of_f = of_f
        self.parts: Parts = {} if parts is None else dict(parts)

    def jacobian(self) -> Tensor:
        return self._part("full", self.of_f.jacobian)

    def diagonal(self) -> Tensor:
        return self._part("diagonal", self.of_f.diagonal)

    def block_diagonal(self, size: int) -> Tensor:
        return self._part(f"blocks {size}", lambda: self.of_f.block_diagonal(size))

    def _part(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        if name not in self.parts:
            self.parts[name] = compute()
        return self.parts[name]


class Transposed:
    """The adjoint recurrence; its inputs are `(states, inputs of f, g)`, all reversed in time.

    Args:
        along: the derivatives of `f` at some rows, from the states before them and their inputs.
    """

    linear_in_state = True
    """What `Auto` goes by: a method that is exact for linear recurrences takes one iteration."""

    def __init__(self, along: Callable[[Tensor, Any], Fixed]) -> None:
        self._along = along

    def __call__(self, adjoint: Tensor, inputs: tuple[Tensor, Any, Tensor]) -> Tensor:
        return self.linearize(adjoint, inputs).value

    def linearize(self, adjoint: Tensor, inputs: tuple[Tensor, Any, Tensor]) -> AbstractDerivatives:
        prev, u, g = inputs
        return TransposedDerivatives(self._along(prev, u), adjoint, g)


class TransposedDerivatives(AbstractDerivatives):
    """Those of `l -> J^T l + g`."""

    def __init__(self, fixed: Fixed, adjoint: Tensor, g: Tensor) -> None:
        self._fixed = fixed
        self.value = fixed.of_f.vjp(adjoint).add_(g)

    def jvp(self, v: Tensor) -> Tensor:
        return self._fixed.of_f.vjp(v)

    def vjp(self, w: Tensor) -> Tensor:
        return self._fixed.of_f.jvp(w)

    def jacobian(self) -> Tensor:
        return self._fixed.jacobian().mT

    def diagonal(self) -> Tensor:
        return self._fixed.diagonal()

    def block_diagonal(self, size: int) -> Tensor:
        return self._fixed.block_diagonal(size).mT


def by_stretch(f: Callable[[Tensor, Any], Tensor], *, keep: bool) -> Callable[[Tensor, Any], Fixed]:
    """Each stretch of rows is linearized once (`keep`), unless a window slides and would leave more and more of them
    behind."""
    known: dict[tuple[int, int], Fixed] = {}

    def along(prev: Tensor, u: Any) -> Fixed:
        rows = (prev.data_ptr(), prev.shape[0])  # `prev` is a stretch of one tensor that outlives this function
        fixed = known.get(rows) or Fixed(linearize(f, prev, u))
        if keep:
            known[rows] = fixed
        return fixed

    return along


def backwards(states: Tensor, inputs: Any, g: Tensor) -> tuple[Tensor, Any, Tensor]:
    """The inputs of the adjoint recurrence, from those of `f` and the gradients `g` of the states, `(T, *batch, D)`.

    Row t of the reversed recurrence maps l_{t+1} to l_t, t = T-1 .. 1, and needs f at (s_t, u_{t+1}).
    """
    given = (states[:-1], take_rows(inputs, 1, states.shape[0]), g[:-1])
    return pytree.tree_map(lambda leaf: leaf.flip(0) if isinstance(leaf, Tensor) else leaf, given)


def normalized(g: Tensor) -> tuple[Tensor, Tensor]:
    """`g` in units of the largest gradient of each sequence, and those units, `(1, *batch, 1)`."""
    scale = g.abs().amax((0, -1), keepdim=True)
    scale = scale.where(scale > 0, 1)
    return g / scale, scale


def without_nonfinite(g: Tensor) -> tuple[Tensor, Tensor]:
    """Whether `g` is finite everywhere, as a bool on its device, and `g`, or zeros where it is not."""
    known = g.isfinite().all()
    return known, g.where(known, 0)


def unwound(state: Workspace, scale: Tensor, known: Tensor) -> Tensor:
    """All `l_t`, `(T, *batch, D)`, from the end of the reversed solve; NaN where there is no finite adjoint."""
    lost = (state.result != int(Result.SUCCESS)) | ~known
    return (state.buffer.flip(0) * scale).masked_fill(lost.unsqueeze(-1), torch.nan)
