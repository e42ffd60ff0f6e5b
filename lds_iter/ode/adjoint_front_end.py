"""`odeint_adjoint` by torchdiffeq's name and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lds_iter.ode.field import Func
from lds_iter.ode.methods import Method
from lds_iter.ode.odeint import odeint


def odeint_adjoint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | Method | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """`odeint`, whose gradient takes O(N) memory as it is: the adjoint of the steps taken, exactly.

    Takes torchdiffeq's arguments. No second equation is integrated backwards, so `adjoint_rtol` and `adjoint_atol`
    are met whatever they are.

    Raises:
        ValueError: `adjoint_method`, `adjoint_options` or `adjoint_params` is given: there is nothing to choose.
    """
    del adjoint_rtol, adjoint_atol
    given = {"adjoint_method": adjoint_method, "adjoint_options": adjoint_options, "adjoint_params": adjoint_params}
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"`{name}` has no effect here: the gradient is the exact one of the steps taken, and reaches all that "
                "`func` is made of. Leave it out."
            )
    return odeint(func, y0, t, rtol=rtol, atol=atol, method=method, options=options, event_fn=event_fn)
