"""How fast a method converges along a trajectory, from how well its `A` stands in for the Jacobian.

With `e_i` the error of iterate `i`, and `A` and `J` taken along that iterate,

    e_{i+1} = (I - A L)^-1 ((J - A) L e_i + second order)
    |e_{i+1}| <= |(I - A L)^-1| (|J - A| |e_i| + K/2 |e_i|^2)          K: the Lipschitz constant of the Jacobian

("A unifying framework for parallelizing sequential models with linear dynamical systems", Gonzalez, Buchanan, Lee,
Liu et al. 2025). Both factors at their worst make the rate pessimistic: it often exceeds 1 where a
method converges in a dozen iterations. The norm of the operator itself, `(I - A L)^-1 (J - A) L`, is sharper, and still
the worst case of one iteration: the operator is nilpotent, so its powers end at zero, whatever its norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import checked_method
from lds_iter.derivatives.linearization import Linearization
from lds_iter.diagnostics._along import along
from lds_iter.diagnostics.singular import Inverse, in_float64, norm
from lds_iter.methods.base import StatefulTransition
from lds_iter.methods.spelling import spelled


@dataclass(frozen=True)
class Contraction:
    """What a method leaves of a small error in one iteration, per sequence; spectral norms, float64, no units.

    Attributes:
        gaps: `|J_t - A_t|` at each time, `(n, *batch)`; 0 at the first, where there is no error to propagate.
        gap: `|J - A|`, the largest of them, `(*batch)`.
        inverse: `|(I - A L)^-1|`, `(*batch)`: how far the method's own linear system amplifies.
        factor: `|(I - A L)^-1 (J - A) L|`, `(*batch)`: the largest factor by which one iteration can change a small
            error. Below 1, every iteration shrinks it.
    """

    gaps: Tensor
    gap: Tensor
    inverse: Tensor
    factor: Tensor

    @property
    def rate(self) -> Tensor:
        """`inverse * gap`, the bound of the papers, never below `factor`, `(*batch)`."""
        return self.inverse * self.gap

    def __str__(self) -> str:
        return (
            f"|J - A| = {float(self.gap.max()):.3g}, |(I - A L)^-1| = {float(self.inverse.max()):.3g}: rate at most "
            f"{float(self.rate.max()):.3g}; one iteration changes an error by at most {float(self.factor.max()):.3g} "
            f"times (over {self.gaps.shape[0]:,} steps)"
        )


@spelled
def contraction(
    f: Callable[[Tensor, Any], Tensor],
    s0: Tensor,
    inputs: Any,
    method: StatefulTransition,
    *,
    states: Tensor | None = None,
    prefix: int | None = 256,
) -> Contraction:
    """The rate of a method close to the trajectory, over the first steps of a recurrence.

    Args:
        f: the recurrence, as `li.solve` takes it.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
        method: one that chooses a transition. A `Then` shows its second method.
        states: the trajectory, such as `solution.states`, `(T, *batch, D)`; step by step when None.
        prefix: how many time steps to look at; None for all. Takes dense Jacobians of them all.

    Returns:
        A `Contraction`.

    Raises:
        TypeError: for a method that chooses no transition.

    Example:
        >>> step = lambda s, u: torch.tanh(0.5 * s + 0.1 * s.flip(-1) + u)
        >>> found = li.diagnostics.contraction(step, torch.zeros(2), torch.randn(300, 2), li.QuasiNewton())
        >>> bool(found.factor <= found.rate), bool(found.rate < 1)
        (True, True)
    """
    checked_method(method, transition=True)
    with torch.no_grad():
        return _contraction(along(f, s0, inputs, states, prefix).whole(), method)


def _contraction(lin: Linearization, method: StatefulTransition) -> Contraction:
    transition = in_float64(method.transition(lin))
    inverse = Inverse(transition)
    like = lin.prev.double()
    missed = lin.jacobian().double() - transition.dense(like).matrix
    missed[0] = 0
    gaps = torch.linalg.matrix_norm(missed, ord=2)

    def forward(e: Tensor) -> Tensor:
        return inverse.apply((missed @ _later(e).unsqueeze(-1)).squeeze(-1))

    def backward(e: Tensor) -> Tensor:
        return _earlier((missed.mT @ inverse.transposed(e).unsqueeze(-1)).squeeze(-1))

    return Contraction(
        gaps=gaps,
        gap=gaps.amax(0),
        inverse=norm(inverse.apply, inverse.transposed, like),
        factor=norm(forward, backward, like),
    )


def _later(x: Tensor) -> Tensor:
    """`L x`: every row gets what its predecessor had."""
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _earlier(x: Tensor) -> Tensor:
    """`L^T x`."""
    return torch.cat([x[1:], torch.zeros_like(x[:1])])
