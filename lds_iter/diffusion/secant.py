"""A method for denoising that learns the network's derivative from the iteration itself.

`Structured` (`methods.py`) takes the derivative of the network for `g I`. `Secant` corrects that by what the iteration
has seen already: how the network's output changed from one iterate to the next, at this time step and the ones beside
it. With the last changes of the argument, normalized, as columns of `X`, and what `g` misses of the changes of the
output as columns of `Y`,

    N = g I + H + (Y - H X) (X^T X + ridge I)^{-1} X^T,

a multisecant (Broyden, Anderson) approximation of each time step by itself, with a diagonal `H` for the directions
not seen yet: the slope of `Y` against `X` of every number of the image by itself, drawn towards the slope of all of
them, `h = <X, Y> / (1 + <X, X>)`. A margin that is always empty has another slope than the digit inside it. What `g`
misses along the directions in which the iterates have moved is thereby put right, at no evaluation; the ridge keeps
nearly parallel directions, of which smooth trajectories have many, from being told apart by their rounding. Older
changes, of iterates that were farther off, count for less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.diffusion.derivatives import DenoisingDerivatives
from lds_iter.diffusion.slopes import VARIANCE
from lds_iter.diffusion.structured import denoising
from lds_iter.methods.base import LDSApproximation


@dataclass(frozen=True)
class Changes:
    """What the iteration has seen of the network, for all T time steps; NaN and 0 where it has seen nothing yet.

    Attributes:
        argument, output: where the network was evaluated last, and what it said, `(T, B, D)`.
        x: changes of the argument between evaluations, normalized, latest first, `(h, T, B, D)`.
        y: what the slope misses of the changes of the output, per unit of `x`, the same shape.
    """

    argument: Tensor
    output: Tensor
    x: Tensor
    y: Tensor

    @staticmethod
    def none(length: int, like: Tensor, depth: int) -> Changes:
        unseen = like.new_full((length, *like.shape[1:]), torch.nan)
        empty = like.new_zeros(depth, *unseen.shape)
        return Changes(unseen, unseen, empty, empty)

    def then(self, rows: slice, known: DenoisingDerivatives, slope: Tensor, active: Tensor) -> Changes:
        """With one more iterate, of the sequences that take part in it."""
        x = known.seen.argument - self.argument[rows]
        y = known.seen.output - self.output[rows] - slope * x
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        moved = (size > 0) & active[:, None]  # false for NaN: a row that had not been evaluated before
        x, y = (torch.where(moved, change / size, 0) for change in (x, y))
        history = []
        for old, new in (self.x, x), (self.y, y):
            pushed = torch.cat([new[None], old[:-1, rows]])
            history.append(_with(old, rows, torch.where(moved, pushed, old[:, rows]), 1))
        return Changes(
            _with(self.argument, rows, known.seen.argument, 0), _with(self.output, rows, known.seen.output, 0), *history
        )


def _with(old: Tensor, rows: slice, new: Tensor, dim: int) -> Tensor:
    """A copy of a tensor with some of its rows replaced."""
    copied = old.clone()
    copied.narrow(dim, rows.start, rows.stop - rows.start).copy_(new)
    return copied


@dataclass(frozen=True)
class Secant(LDSApproximation):
    """The slope of Gaussian images, corrected by the changes that the iteration has seen: see the module.

    The recursion `d_t = A_t d_{t-1} + r_t` with these `A` runs as a loop over time, on vectors only: a tenth of a
    millisecond a step, where the network takes milliseconds.

    Attributes:
        depth: how many changes are kept.
        neighbours: time steps on either side whose changes count as well; where only some are evaluated, up to the next
            of those.
        ridge: relative to normalized changes.
        shrinkage: how strongly the slope of a number is drawn towards that of all of them, relative to what has been
            seen of an average number.
        fading: by how much a change counts less with every round that it is old.
        variance: of the images, as in `Structured`.
    """

    depth: int = 4
    neighbours: int = 1
    ridge: float = 0.3
    shrinkage: float = 0.3
    fading: float = 0.5
    variance: float | None = VARIANCE

    def __post_init__(self) -> None:
        if self.depth < 1 or self.neighbours < 0 or not (self.ridge > 0 and self.shrinkage > 0 and self.fading > 0):
            raise ValueError(
                "`depth` must be 1 or more, `neighbours` 0 or more, and `ridge`, `shrinkage` and `fading` positive; "
                f"got {self}."
            )

    def init(self, guess: Tensor) -> int:
        return len(guess)

    def update(self, lin: Linearization, carry: Any) -> tuple[Tensor, Changes]:
        known = denoising(lin, self)
        if isinstance(carry, int):
            carry = Changes.none(carry, known.argument, self.depth)
        slope = known.recurrence.slopes(self.variance)[known.steps]
        rows = slice(lin.rows.start, lin.rows.start + len(lin.residual))
        carry = carry.then(rows, known, slope, lin.active)
        return self._scan(known, lin.residual, slope, carry.x[:, rows], carry.y[:, rows], rows.start), carry

    def last(self, known: DenoisingDerivatives, residual: Tensor, carry: Any) -> Tensor:
        """The update that would follow, for the rows of a whole solution."""
        slope = known.recurrence.slopes(self.variance)[known.steps]
        if isinstance(carry, int):
            carry = Changes.none(carry, known.argument, self.depth)
        carry = carry.then(slice(0, len(residual)), known, slope, torch.ones_like(residual[0, :, 0], dtype=torch.bool))
        return self._scan(known, residual, slope, carry.x, carry.y, 0)

    def _scan(
        self, known: DenoisingDerivatives, residual: Tensor, slope: Tensor, x: Tensor, y: Tensor, first: int
    ) -> Tensor:
        """`d_t = A_t d_{t-1} + r_t` for all rows at hand, from step `first` on; accepted rows have `r = 0`."""
        recurrence, n = known.recurrence, len(residual)
        d = residual.unflatten(-1, (recurrence.slots, recurrence.width)).clone()
        gain = recurrence.table.gain[known.steps]
        spacing = recurrence.memo.spacing(recurrence.memo.sweep)
        faded = self.fading ** torch.arange(len(x), dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)
        x, y = faded * x, faded * y
        for t in range(1, n):
            change = gain[t] * d[t - 1, :, 0]
            near = self._near(t, n, first, spacing)
            d[t] += known.carried(t, d[t - 1], slope[t] * change + self._correction(x[:, near], y[:, near], change))
        return d.flatten(-2)

    def _near(self, t: int, n: int, first: int, spacing: int) -> list[int]:
        """The rows, of n from step `first` on, whose changes count for row t: the evaluated ones beside it."""
        reach = max(self.neighbours, spacing if spacing > 1 else 0)
        rows = range(max(0, t - reach), min(n, t + reach + 1))
        return [row for row in rows if row == t or (first + row) % spacing == 0]

    def _correction(self, x: Tensor, y: Tensor, change: Tensor) -> Tensor:
        """`(H + (Y - H X) (X^T X + ridge)^{-1} X^T) change`, `(B, D)`, with the columns `(h, near, B, D)`."""
        x, y = x.flatten(0, 1).transpose(0, 1), y.flatten(0, 1).transpose(0, 1)  # (B, columns, D)
        slopes = self._slopes(x, y)
        y = y - slopes.unsqueeze(1) * x
        gram = x @ x.mT + self.ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(gram, x @ change.unsqueeze(-1))
        return (y.mT @ weights).squeeze(-1) + slopes * change

    def _slopes(self, x: Tensor, y: Tensor) -> Tensor:
        """The diagonal of `H`, `(B, D)`; 0 where nothing has been seen."""
        seen, shown = x.square().sum(1), (x * y).sum(1)
        whole = shown.sum(-1, keepdim=True) / (1 + seen.sum(-1, keepdim=True))
        pull = self.shrinkage * seen.mean(-1, keepdim=True)
        return torch.where(pull > 0, (shown + pull * whole) / (seen + pull), 0)
