"""`(I + X)^{-1}` of many small positive semidefinite matrices, which need no pivots.

LAPACK takes one matrix after the other, and for small ones spends its time on the calls. Up to `SMALL` a CPU inverts
all matrices entry by entry, each entry of all of them one contiguous plane. It sweeps out one pivot after the other,
the first row and column of what is left, which end as the last ones:

    [p  b]      [D - c b / p   c / p]
    [c  D]  ->  [  b / p       -1/p ]         after all pivots, minus the inverse, in the original order
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 16
"""Up to this size a CPU inverts matrices entry by entry; LAPACK takes longer."""


class Inverses:
    """Inverts tensors of one shape, in memory that is allocated once.

    Two tensors of planes take turns, so that all views are made once: for small planes they cost more than the sums.

    Args:
        like: one such tensor, `(m, D, D)`.
    """

    def __init__(self, like: Tensor) -> None:
        width = like.shape[-1]
        self._out = torch.empty_like(like, memory_format=torch.contiguous_format)
        if like.device.type != "cpu" or width > SMALL or torch.compiler.is_compiling():
            self._turns = None
            return
        self._first, other = like.new_empty(2, width, width, like.shape[0])
        turns = (self._first, other), (other, self._first)
        self._last = turns[width % 2][0]
        self._pivot = like.new_empty(like.shape[0])
        views = [
            (m[0, 0], m[0, 1:], m[1:, 0], m[1:, 1:], m[1:, :1], out[-1, :-1], out[:-1, -1], out[:-1, :-1], out[-1, -1])
            for m, out in turns
        ]
        self._turns = [views[k % 2] for k in range(width)]

    def __call__(self, x: Tensor) -> Tensor:
        """`(I + x)^{-1}`, in memory that the next call takes.

        All of `x` is read: of a triangle alone, what rounding adds to the other grows.
        """
        if self._turns is None:
            one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            return torch.linalg.inv_ex(x + one)[0]
        self._first.copy_(x.movedim(0, -1))
        self._first.diagonal().add_(1)
        pivot = self._pivot
        for corner, row, column, rest, upright, new_row, new_column, new_rest, new_corner in self._turns:
            torch.reciprocal(corner, out=pivot)
            torch.mul(row, pivot, out=new_row)
            torch.mul(column, pivot, out=new_column)
            torch.addcmul(rest, upright, new_row, value=-1, out=new_rest)
            torch.neg(pivot, out=new_corner)
        return torch.neg(self._last.movedim(-1, 0), out=self._out)
