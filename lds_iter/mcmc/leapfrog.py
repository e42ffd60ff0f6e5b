"""The leapfrog steps of one move of HMC as a recurrence, to be solved for all steps at once.

Half steps of the velocity are merged, so that a step takes one gradient. In the coordinates in which the inverse mass
matrix is the identity, with positions `x0 + C y`:

    y' = y + eps v        v' = v + eps C^T grad(x0 + C y')        J = [[I, eps I], [eps H, I + eps^2 H]]

where H is the Hessian of the log density in these coordinates. A state holds (y_1, v_1, y_2, v_2, ...), so that the
blocks of 2 along the diagonal are those of a target without couplings: `BlockNewton(2)` is Newton's method there.
Parallel over these steps: Zoltowski, Wu, Gonzalez, Kozachkov, Linderman, "Parallelizing MCMC across the sequence
length" (2025), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import Refusals
from lds_iter.mcmc.mass import Root
from lds_iter.mcmc.target import Target


@dataclass(frozen=True)
class Leapfrog:
    """`f(s, u)` on states `(n, *batch, 2 D)`; `u` is not used.

    Attributes:
        target: whose gradient pulls.
        root: of the inverse mass matrix.
        size: of a step.
        origin: where the move starts, `(*batch, D)`.
    """

    target: Target
    root: Root
    size: float
    origin: Tensor

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:  # noqa: ARG002
        y, v = separate(s)
        y = y + self.size * v
        return join(y, v + self.size * self.pull(y))

    def pull(self, y: Tensor) -> Tensor:
        """The gradient with respect to `y`, `(n, *batch, D)`."""
        return self.root.transposed(self.target.value_and_gradient(self.origin + self.root.times(y))[1])

    @property
    def refusals(self) -> Refusals:
        """Those of the target, which all moves share."""
        return self.target.refusals

    def linearize(self, s: Tensor, inputs: Any) -> LeapfrogDerivatives:  # noqa: ARG002
        """Value and derivatives by those of the gradient alone."""
        return LeapfrogDerivatives(self, s)


class LeapfrogDerivatives(AbstractDerivatives):
    """The derivatives of a leapfrog step, from products with the Hessian: half as many as the state is wide."""

    def __init__(self, leapfrog: Leapfrog, s: Tensor) -> None:
        y, v = separate(s)
        self._size = leapfrog.size
        self._pull = FunctionDerivatives(lambda y, _: leapfrog.pull(y), y + self._size * v, None, leapfrog.refusals)
        self.value = join(y + self._size * v, v + self._size * self._pull.value)

    def jvp(self, v: Tensor) -> Tensor:
        along_y, along_v = separate(v)
        along_y = along_y + self._size * along_v
        return join(along_y, along_v + self._size * self._pull.jvp(along_y))

    def vjp(self, w: Tensor) -> Tensor:
        of_y, of_v = separate(w)
        of_y = of_y + self._size * self._pull.vjp(of_v)
        return join(of_y, self._size * of_y + of_v)

    def jacobian(self) -> Tensor:
        hessian = self._pull.jacobian()
        one = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device).expand_as(hessian)
        return _blocks(self._size, one, hessian, -3).flatten(-4, -3).flatten(-2)

    def diagonal(self) -> Tensor:
        curvature = self._pull.diagonal()
        return join(torch.ones_like(curvature), 1 + self._size**2 * curvature)

    def block_diagonal(self, size: int) -> Tensor:
        if size == 2:
            curvature = self._pull.diagonal()
            return _blocks(self._size, torch.ones_like(curvature), curvature, -2)
        blocks = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def _blocks(size: float, one: Tensor, hessian: Tensor, dim: int) -> Tensor:
    """`[[1, eps], [eps H, 1 + eps^2 H]]` for every number of `hessian`; the rows lie along `dim`."""
    above, below = (one, size * one), (size * hessian, one + size**2 * hessian)
    return torch.stack([torch.stack(above, -1), torch.stack(below, -1)], dim)


def join(y: Tensor, v: Tensor) -> Tensor:
    """Positions and velocities, `(..., D)` each, as states `(..., 2 D)`."""
    return torch.stack([y, v], -1).flatten(-2)


def separate(s: Tensor) -> tuple[Tensor, Tensor]:
    """States `(..., 2 D)` as positions and velocities, `(..., D)` each."""
    y, v = s.unflatten(-1, (-1, 2)).unbind(-1)
    return y, v


def straight(start: Tensor, num_steps: int, size: float) -> Tensor:
    """The flight without any pull, as a guess: `(num_steps, *batch, 2 D)`, from `start`, `(*batch, 2 D)`."""
    y, v = separate(start)
    times = torch.arange(1, num_steps + 1, dtype=v.dtype, device=v.device).view(-1, *[1] * v.ndim)
    return join(y + size * times * v, v.expand(num_steps, *v.shape))
