"""Forward-mode derivatives of a solved trajectory, for `torch.func.jvp` and `jacfwd`.

The trajectory satisfies `s_t = f(s_{t-1}, u_t)`, so its tangent in a direction of `s0`, the inputs and the parameters
is one more linear recurrence,

    t_t = J_t t_{t-1} + v_t         v_t = the tangent of f(s_{t-1}, u_t) with s_{t-1} held fixed, t > 1

and `v_1` has that of `s0` in it. It is one scan with the Jacobians at the states returned, whatever method found them,
in O(T D^2) memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter.derivatives.autodiff import linearize
from lds_iter.linear.registry import operator_of
from lds_iter.linear.transitions import Dense
from lds_iter.recurrence import Function

NESTED = (
    "`solve` has first derivatives in forward mode alone, by one torch.func.jvp or jacfwd around it: no derivative of "
    "that derivative (hessian, nested jvp, torch.func.grad or `.backward()` through it). Call it under torch.no_grad() "
    "where parameters require a gradient and none is wanted. What works under every transform is "
    "li.sequential(f, s0, inputs)."
)


def without_tangents(tree: Any) -> Any:
    """A pytree with the tensors alone."""
    return pytree.tree_map(lambda x: forward_ad.unpack_dual(x).primal if isinstance(x, Tensor) else x, tree)


def with_tangent(f: Function, s0: Tensor, inputs: Any, states: Tensor) -> Tensor:
    """The solution with its tangent.

    Args:
        f, s0, inputs: see `solve`; with tangents, where they have any.
        states: the solution without one, `(T, *batch, D)`.

    Raises:
        NotImplementedError: where a second derivative would be needed.
    """
    prev = torch.cat([s0.unsqueeze(0), states[:-1]])
    value = f(prev, inputs)
    if _torch.other_transforms() or _torch.has_graph(value):
        raise NotImplementedError(NESTED)
    v = forward_ad.unpack_dual(value).tangent
    if v is None:
        return states
    with _torch.no_tangents():
        jacobian = linearize(f, *without_tangents((prev, inputs))).jacobian()
        scan = operator_of(Dense)  # under torch.func it is the operator that knows what to do
        assert scan is not None
        return forward_ad.make_dual(states, scan(Dense(jacobian), v.contiguous(), None))
