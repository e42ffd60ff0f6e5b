"""One step of a Kalman filter for many sequences at once, in memory that is used again.

The state is `[K | columns]`: the gain and what is carried along with it, the mean in the last column. A step multiplies
all of it by one matrix and then by another,

    ahead = J [K | columns], + r in the last one        X = J K J^T + q I        [K | columns] <- (I + X)^{-1} [X | ...]

A CPU does that in one of two ways. Small matrices are multiplied entry by entry, each entry of all of them one
contiguous plane; larger ones are left to the library's batched product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lds_iter.methods.inverses import Inverses

TINY = 8
"""Below this size a CPU multiplies entry by entry; from it on its library is as fast."""


AT_ONCE = 8
"""Coordinates of the observation that batched products take at a time: matrices up to this size are cheap to invert."""


class Steps(ABC):
    """Steps for `m` sequences, with a way of its own for matrices to lie in memory.

    Attributes:
        state: `[K | columns]`, to be set before the first step; each step leaves the next one there.
        gain: a view of `K`.
        columns: a view of the others.
    """

    state: Tensor
    gain: Tensor
    columns: Tensor

    @staticmethod
    @abstractmethod
    def laid_out(x: Tensor) -> Tensor:
        """Matrices `(rows, blocks, mates, D, E)`, brought into its own way of lying in memory."""

    @staticmethod
    @abstractmethod
    def restored(x: Tensor) -> Tensor:
        """The matrices `(rows, blocks * mates, D, E)` again."""

    @abstractmethod
    def __call__(self, jt: Tensor, r: Tensor, q: Tensor) -> None:
        """One step of the state: `J_t^T`, `r_t` as a column, and `q_t` as a matrix of one number."""

    @abstractmethod
    def observe(self, eh: Tensor) -> None:
        """`eh += (J a)^T (I + X)^{-1} [J a | J b + r]` of the last step of states `[K | a | b]`."""


class Products(Steps):
    """By batched products; matrices lie as they are, `(m, D, E)`.

    The update takes `AT_ONCE` coordinates of the observation at a time. With `W = [X | columns]`, `W_i` its rows of
    these coordinates and `X_i` its columns, it is `W <- W - X_i (I + X_ii)^{-1} W_i`, and `W_i` itself becomes
    `(I + X_ii)^{-1} W_i`, where the difference would cancel.

    Args:
        like: one step's Jacobians.
        columns: how many are carried along.
    """

    def __init__(self, like: Tensor, columns: int) -> None:
        m, width, _ = like.shape
        self.state, self._ahead = like.new_empty(2, m, width, width + columns)
        self.gain, self.columns = self.state[..., :width], self.state[..., width:]
        self._predicted = like.new_empty(m, width, width)
        size = AT_ONCE if like.device.type == "cpu" else width
        self._parts = [
            (slice(first, min(first + size, width)), Inverses(like[:, first : first + size, first : first + size]))
            for first in range(0, width, size)
        ]

    @staticmethod
    def laid_out(x: Tensor) -> Tensor:
        return x.contiguous().flatten(1, 2)

    @staticmethod
    def restored(x: Tensor) -> Tensor:
        return x

    def __call__(self, jt: Tensor, r: Tensor, q: Tensor) -> None:
        ahead, width = self._ahead, jt.shape[-1]
        torch.bmm(jt.mT, self.state, out=ahead)
        ahead[..., -1:] += r
        torch.bmm(ahead[..., :width], jt, out=self._predicted)
        self._predicted.diagonal(dim1=-2, dim2=-1).add_(q.squeeze(-1))
        ahead[..., :width] = self._predicted
        before = ahead
        for some, inverses in self._parts:
            rows = torch.bmm(inverses(before[:, some, some]), before[:, some])
            if some.stop - some.start == width:
                self.state.copy_(rows)
                return
            column = before[..., some].contiguous()
            torch.baddbmm(before, column, rows, alpha=-1, out=self.state)
            self.state[:, some] = rows
            before = self.state

    def observe(self, eh: Tensor) -> None:
        width = self._predicted.shape[-1]
        eh.baddbmm_(self._ahead[..., width:-1].mT, self.columns)


class Planes(Steps):
    """Entry by entry; matrices lie as planes, `(D, E, m)`.

    `(I + X)^{-1}` is never formed: one observation after the other, each of a single coordinate i, takes
    `x x_i / (1 + X_ii)` off all columns, where x is column i of X. Two tensors take turns in that, and all their views
    are made once: for small planes these cost more than the sums.
    """

    def __init__(self, like: Tensor, columns: int) -> None:
        width, _, m = like.shape
        self.state, other = like.new_empty(2, width, width + columns, m)
        self.gain, self.columns = self.state[:, :width], self.state[:, width:]
        self._ahead, self._row = torch.empty_like(other), torch.empty_like(other[0])
        turns = [(self.state, other), (other, self.state)]
        if width % 2:  # so that the last one ends in the state
            turns.reverse()
        self._predicted = turns[0][0]
        self._turns = [
            (old, old[i, i], old[i], old[:, i, None], new, new[i])
            for i in range(width)
            for old, new in turns[i % 2 : i % 2 + 1]
        ]
        self._gain = self._ahead[:, :width].unsqueeze(2).unbind(1)
        self._width = width

    @staticmethod
    def laid_out(x: Tensor) -> Tensor:
        return x.movedim((1, 2), (-2, -1)).flatten(-2).contiguous()

    @staticmethod
    def restored(x: Tensor) -> Tensor:
        return x.movedim(-1, 1)

    def __call__(self, jt: Tensor, r: Tensor, q: Tensor) -> None:
        ahead, predicted, row = self._ahead, self._predicted, self._row
        _multiply(jt.unsqueeze(2).unbind(), self.state.unbind(), ahead)
        ahead[:, -1:].add_(r)
        gain = predicted[:, : self._width]
        _multiply(self._gain, jt.unbind(), gain)
        gain.diagonal().add_(q[0].mT)
        predicted[:, self._width :] = ahead[:, self._width :]
        for old, corner, old_row, column, new, new_row in self._turns:
            torch.div(old_row, corner + 1, out=row)
            torch.addcmul(old, column, row, value=-1, out=new)
            new_row.copy_(row)

    def observe(self, eh: Tensor) -> None:
        for observed, mean in zip(self._ahead[:, self._width : -1], self.columns, strict=True):
            eh.addcmul_(observed.unsqueeze(1), mean)


def _multiply(left: Sequence[Tensor], right: Sequence[Tensor], out: Tensor) -> None:
    """The product of planes, as a sum over the columns `(D, 1, m)` of one and the rows `(E, m)` of the other."""
    torch.mul(left[0], right[0], out=out)
    for column, row in zip(left[1:], right[1:], strict=True):
        out.addcmul_(column, row)
