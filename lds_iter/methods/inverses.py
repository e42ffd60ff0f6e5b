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
        if like.device.type != "cpu" or width > LARGE:
            return
        if width > SMALL:
            first = width // 2
            self._half = Inverses(like[:, :first, :first]), Inverses(like[:, first:, first:])
            self._corner = torch.empty_like(like[:, first:, first:], memory_format=torch.contiguous_format)
        else:
            self._planes = like.new_empty(2, width, width, like.shape[0])

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """`(I + x)^{-1}` into `out`. All of `x` is read: of a triangle alone, what rounding adds to the other grows."""
        if self._planes is not None:
            planes, spare = self._planes
            planes.copy_(x.movedim(0, -1))
            planes.diagonal().add_(1)
            out.copy_(gauss_jordan(planes, spare).movedim(-1, 0))
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
        out[:, :n, n:] = right.neg_()
        torch.matmul(q, left, out=left)
        out[:, n:, :n] = left.neg_()


def gauss_jordan(m: Tensor, spare: Tensor) -> Tensor:
    """`m[i, j]`, the entries of positive definite matrices, to those of their inverses, in `m` or in `spare`."""
    for k in range(m.shape[0]):
        pivot = m[k, k].reciprocal()
        row, column = m[k] * pivot, m[:, k]
        torch.addcmul(m, column.unsqueeze(1), row, value=-1, out=spare)
        spare[k] = row
        torch.mul(column, pivot.neg_(), out=spare[:, k])
        torch.neg(pivot, out=spare[k, k])
        m, spare = spare, m
    return m
