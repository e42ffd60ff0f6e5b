"""`(I + X)^{-1}` of many small positive semidefinite matrices, which need no pivots.

LAPACK takes one matrix after the other, and for small ones spends its time on the calls. Up to `SMALL` a CPU inverts
all matrices entry by entry, each entry of all of them one contiguous plane. Larger ones are cut in halves, `P` and `S`
positive definite again, and most of the work becomes products:

    [A  B]^-1   [P + W Q W^T   -W Q]       P = A^-1       W = P B
    [C  D]    = [  -(W Q)^T      Q  ]      Q = (D - C W)^-1
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 16
"""Up to this size a CPU inverts matrices entry by entry; LAPACK takes longer."""

LARGE = 64
"""Above this size, and on other devices, the library's own batched inverse is as fast."""


class Inverses:
    """Inverts tensors of one shape, in memory that is allocated once.

    Args:
        like: one such tensor, `(m, D, D)`.
    """

    def __init__(self, like: Tensor) -> None:
        width = like.shape[-1]
        self._half = self._planes = None
        if like.device.type != "cpu" or width > LARGE or torch.compiler.is_compiling():
            return
        if width > SMALL:
            first = width // 2
            self._half = Inverses(like[:, :first, :first]), Inverses(like[:, first:, first:])
            self._corner = torch.empty_like(like[:, first:, first:], memory_format=torch.contiguous_format)
        else:
            self._planes = _Planes(like)

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """`(I + x)^{-1}` into `out`. All of `x` is read: of a triangle alone, what rounding adds to the other grows."""
        if self._planes is not None:
            self._planes(x, out)
        elif self._half is not None:
            self._by_halves(x, out, *self._half)
        else:
            one = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            out.copy_(torch.linalg.inv_ex(x + one)[0])

    def _by_halves(self, x: Tensor, out: Tensor, first: Inverses, second: Inverses) -> None:
        n = x.shape[-1] // 2
        corner = self._corner
        p, q = out[:, :n, :n], out[:, n:, n:]
        first(x[:, :n, :n], p)
        w, left = p @ x[:, :n, n:], x[:, n:, :n] @ p
        torch.baddbmm(x[:, n:, n:], left, x[:, :n, n:], alpha=-1, out=corner)
        second(corner, q)
        right = w @ q
        p += right @ left
        torch.neg(right, out=out[:, :n, n:])
        torch.neg(q @ left, out=out[:, n:, :n])


class _Planes:
    """Sweeps out one pivot after the other, the first row and column of what is left, which end as the last ones:

        [p  b]      [D - c b / p   c / p]
        [c  D]  ->  [  b / p       -1/p ]         after all pivots, minus the inverse, in the original order

    Two tensors of planes take turns, so that all views are made once: for small planes they cost more than the sums.
    """

    def __init__(self, like: Tensor) -> None:
        width = like.shape[-1]
        self._first, other = like.new_empty(2, width, width, like.shape[0])
        turns = (self._first, other), (other, self._first)
        self._last = turns[width % 2][0]
        self._pivot = like.new_empty(like.shape[0])
        views = [
            (m[0, 0], m[0, 1:], m[1:, 0], m[1:, 1:], m[1:, :1], out[-1, :-1], out[:-1, -1], out[:-1, :-1], out[-1, -1])
            for m, out in turns
        ]
        self._turns = [views[k % 2] for k in range(width)]

    def __call__(self, x: Tensor, out: Tensor) -> None:
        self._first.copy_(x.movedim(0, -1))
        self._first.diagonal().add_(1)
        pivot = self._pivot
        for corner, row, column, rest, upright, new_row, new_column, new_rest, new_corner in self._turns:
            torch.reciprocal(corner, out=pivot)
            torch.mul(row, pivot, out=new_row)
            torch.mul(column, pivot, out=new_column)
            torch.addcmul(rest, upright, new_row, value=-1, out=new_rest)
            torch.neg(pivot, out=new_corner)
        torch.neg(self._last.movedim(-1, 0), out=out)
