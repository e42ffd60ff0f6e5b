"""Methods for denoising: the scheduler's own linear part, exactly, and a model of the network's derivative.

A step of the recurrence is `S' = L S + b m`, `m = net(c x)`, with everything known but the derivative `N` of the
network, a matrix of the size of the image: `A = L + b (N c) e_x^T`. These methods never ask the network for it:

- `Structured` takes a multiple of the identity, `N = g I`, with the `g` that Gaussian images would have (`slopes.py`).
  Then `A` is a small matrix per step (a number, for a scheduler without memory) times the identity.
- `Secant` corrects that by what the iteration has seen already: how the network's output changed from one iterate to
  the next, at this time step and the ones beside it. With the last changes of the argument, normalized, as columns of
  `X`, and what `g` misses of the changes of the output as columns of `Y`,

      N = (g + h) I + (Y - h X) (X^T X + ridge I)^{-1} X^T,

  a multisecant (Broyden, Anderson) approximation of each time step by itself, with `h = <X, Y> / (1 + <X, X>)`: the
  slope that the changes have shown, for the directions not seen yet. What `g` misses along the directions in which the
  iterates have moved is thereby put right, at no evaluation; the ridge keeps nearly parallel directions, of which
  smooth trajectories have many, from being told apart by their rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from recipes.diffusion.recurrence import VARIANCE, DenoisingDerivatives


@dataclass(frozen=True)
class SlotTransition(li.AbstractTransition):
    """A small matrix between slots, the same for every number of the image. `matrix`: `(n, 1 or B, k, k)`."""

    matrix: Tensor

    def mv(self, x: Tensor) -> Tensor:
        slots = x.unflatten(-1, (self.matrix.shape[-1], -1))
        return (self.matrix @ slots).flatten(-2)

    def after(self, earlier: Any) -> SlotTransition:
        return SlotTransition(self.matrix @ earlier.matrix)

    def transpose(self) -> SlotTransition:
        return SlotTransition(self.matrix.mT)

    def scaled(self, factor: Tensor) -> SlotTransition:
        """`factor * A`, exactly zero where the factor is; `factor`: `(n, 1 or B, 1)`."""
        wide = factor.unsqueeze(-1)
        return SlotTransition(torch.where(wide == 0, 0, wide * self.matrix))


@dataclass(frozen=True)
class Structured(li.TransitionApproximation):
    """`N = g I`: the scheduler's linear part and the slope of Gaussian images. One scan, no derivatives.

    Attributes:
        variance: of the images, given their conditioning. 1 makes it Picard iteration in a scheduler that preserves
            variance; less is right for images that their class or prompt leaves less free. None for slope 0: the
            linear part of the scheduler alone.
    """

    variance: float | None = VARIANCE

    def transition(self, lin: li.Linearization) -> li.AbstractTransition:
        known = denoising(lin, self)
        table, steps = known.recurrence.table, known.steps
        slope = known.recurrence.slopes(self.variance)[steps] * table.gain[steps]
        matrix = table.linear[steps].clone()
        matrix[..., 0] += table.model[steps] * slope[:, None]
        if known.mask is None:
            return SlotTransition(matrix.unsqueeze(1))
        estimate = table.estimate[steps]
        row = estimate[:, :-1].clone()
        row[:, 0] += estimate[:, -1] * slope
        through = table.clipped[steps][:, :, None] * row[:, None]
        unclipped = known.mask.mean(-1)[..., None, None]  # a number that is clipped passes nothing on
        return SlotTransition(matrix.unsqueeze(1) + unclipped * through.unsqueeze(1))


@dataclass(frozen=True)
class Changes:
    """What the iteration has seen of the network, for all T time steps; NaN and 0 where it has seen nothing yet.

    Attributes:
        argument, output: at the last iterate, `(T, B, D)`.
        x: changes of the argument from iterate to iterate, normalized, latest first, `(h, T, B, D)`.
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
        x = known.argument - self.argument[rows]
        y = known.output - self.output[rows] - slope * x
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        moved = (size > 0) & active[:, None]  # false for NaN: a row that has just entered the window
        x, y = (torch.where(moved, change / size, 0) for change in (x, y))
        history = []
        for old, new in (self.x, x), (self.y, y):
            pushed = torch.cat([new[None], old[:-1, rows]])
            history.append(_with(old, rows, torch.where(moved, pushed, old[:, rows]), 1))
        return Changes(
            _with(self.argument, rows, known.argument, 0), _with(self.output, rows, known.output, 0), *history
        )


def _with(old: Tensor, rows: slice, new: Tensor, dim: int) -> Tensor:
    """A copy of a tensor with some of its rows replaced."""
    copied = old.clone()
    copied.narrow(dim, rows.start, rows.stop - rows.start).copy_(new)
    return copied


@dataclass(frozen=True)
class Secant(li.LDSApproximation):
    """The slope of Gaussian images, corrected by the changes that the iteration has seen: see the module.

    The recursion `d_t = A_t d_{t-1} + r_t` with these `A` runs as a loop over time, on vectors only: a tenth of a
    millisecond a step, where the network takes milliseconds.

    Attributes:
        depth: how many changes are kept.
        neighbours: time steps on either side whose changes count as well.
        ridge: relative to normalized changes.
        variance: of the images, as in `Structured`.
    """

    depth: int = 4
    neighbours: int = 1
    ridge: float = 0.3
    variance: float | None = VARIANCE

    def __post_init__(self) -> None:
        if self.depth < 1 or self.neighbours < 0 or not self.ridge > 0:
            raise ValueError(f"`depth` must be 1 or more, `neighbours` 0 or more and `ridge` positive, got {self}.")

    def init(self, guess: Tensor) -> int:
        return len(guess)

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Changes]:
        known = denoising(lin, self)
        if isinstance(carry, int):
            carry = Changes.none(carry, known.argument, self.depth)
        slope = known.recurrence.slopes(self.variance)[known.steps].view(-1, 1, 1)
        rows = slice(lin.start, lin.start + len(lin.residual))
        carry = carry.then(rows, known, slope, lin.active)
        return self._scan(known, lin.residual, slope, carry.x[:, rows], carry.y[:, rows]), carry

    def last(self, known: DenoisingDerivatives, residual: Tensor, carry: Any) -> Tensor:
        """The update that would follow, for the rows of a whole solution."""
        slope = known.recurrence.slopes(self.variance)[known.steps].view(-1, 1, 1)
        if isinstance(carry, int):
            carry = Changes.none(carry, known.argument, self.depth)
        carry = carry.then(slice(0, len(residual)), known, slope, torch.ones_like(residual[0, :, 0], dtype=torch.bool))
        return self._scan(known, residual, slope, carry.x, carry.y)

    def _scan(self, known: DenoisingDerivatives, residual: Tensor, slope: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """`d_t = A_t d_{t-1} + r_t` for all rows at hand; rows already accepted have `r = 0` and so stay."""
        recurrence, n = known.recurrence, len(residual)
        d = residual.unflatten(-1, (recurrence.slots, recurrence.width)).clone()
        gain = recurrence.table.gain[known.steps]
        for t in range(1, n):
            change = gain[t] * d[t - 1, :, 0]
            near = slice(max(0, t - self.neighbours), min(n, t + self.neighbours + 1))
            d[t] += known.push(t, d[t - 1], slope[t] * change + self._correction(x[:, near], y[:, near], change))
        return d.flatten(-2)

    def _correction(self, x: Tensor, y: Tensor, change: Tensor) -> Tensor:
        """`(h I + (Y - h X) (X^T X + ridge)^{-1} X^T) change`, `(B, D)`, with the columns `(h, near, B, D)`."""
        x, y = x.flatten(0, 1).transpose(0, 1), y.flatten(0, 1).transpose(0, 1)  # (B, columns, D)
        slope = (x * y).sum((1, 2)) / (1 + x.square().sum((1, 2)))
        y = y - slope.view(-1, 1, 1) * x
        gram = x @ x.mT + self.ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(gram, x @ change.unsqueeze(-1))
        return (y.mT @ weights).squeeze(-1) + slope.unsqueeze(-1) * change


def denoising(lin: li.Linearization, method: Any) -> DenoisingDerivatives:
    """The linearization's derivatives, if they are those of a `Denoising`."""
    if not isinstance(lin.derivatives, DenoisingDerivatives):
        raise TypeError(
            f"`{type(method).__name__}` is for the recurrence of a diffusion scheduler (`Denoising`); for others take "
            "li.Newton(), li.QuasiNewton() or li.Picard()."
        )
    return lin.derivatives


@dataclass(frozen=True)
class Remembered(li.LDSApproximation):
    """Another method, unchanged, whose last carry stays in `carries`, so that its last update can be made."""

    method: li.LDSApproximation
    carries: list[Any]

    def init(self, guess: Tensor) -> Any:
        self.carries[:] = [self.method.init(guess)]
        return self.carries[0]

    def update(self, lin: li.Linearization, carry: Any) -> tuple[Tensor, Any]:
        d, carry = self.method.update(lin, carry)
        self.carries[:] = [carry]
        return d, carry
