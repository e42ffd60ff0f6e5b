"""Newton's method with one Jacobian of the field a step, where an explicit step of several stages has several.

The exact Jacobian of a Runge-Kutta step multiplies those of the field at all of its stages. With the one at the middle
of the guess, `J_m = J(t + h/2, (y_0 + y_1) / 2)`, in place of all of them, the transition

    A = I + h sum_i b_i K_i,        K_i = J_m (I + h sum_j a_ij K_j)

is `h^3` off in each step (Magnus' expansion: Hairer, Lubich, Wanner, "Geometric Numerical Integration", IV.7), and it
is exact for a linear equation with constant coefficients. So an iteration shrinks the error by a factor in proportion
to `h^2`, and an iteration of Newton's method by a factor in proportion to the error itself. On a grid that is fine
enough to be accurate both take the same number of iterations. For `rk4` this one takes a quarter of the derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lds_iter.derivatives.linearization import Linearization
from lds_iter.linear.transitions import Dense
from lds_iter.methods.base import TransitionApproximation
from lds_iter.ode.explicit import ExplicitRungeKutta, weighted
from lds_iter.ode.field import Field


@dataclass(frozen=True)
class MidpointJacobian(TransitionApproximation):
    """The transitions of an explicit method, from the Jacobian of the field in the middle of every step.

    Attributes:
        field: the slopes.
        rule: the explicit method.
    """

    field: Field
    rule: ExplicitRungeKutta

    def transition(self, lin: Linearization) -> Dense:
        return self.along(lin.prev, lin.states, lin.inputs)

    def along(self, before: Tensor, after: Tensor, steps: tuple[Tensor, Tensor]) -> Dense:
        """The transitions of some steps.

        Args:
            before, after: the states at both ends of every step, `(n, *batch, D)`.
            steps: times and sizes, `(n)` each.
        """
        t, h = steps
        _, jacobian = self.field.linearize(t + h / 2, (before + after) / 2)
        return Dense(_of_a_step(self.rule, h.to(jacobian.dtype).view(-1, *[1] * (jacobian.ndim - 1)) * jacobian))


def _of_a_step(rule: ExplicitRungeKutta, z: Tensor) -> Tensor:
    """`A`, `(n, *batch, D, D)`, from `z = h J_m`."""
    stages = [z]
    for weights in rule.a:
        stages.append(z + z @ weighted(weights, stages))
    matrix = weighted(rule.b, stages)
    matrix.diagonal(dim1=-2, dim2=-1).add_(1)
    return matrix
