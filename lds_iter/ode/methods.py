"""The methods by the names that torchdiffeq gives them, and ours."""

from __future__ import annotations

import difflib

from lds_iter.ode.explicit import EULER, HEUN2, HEUN3, MIDPOINT, RK4, ExplicitRungeKutta
from lds_iter.ode.implicit import (
    AbstractImplicit,
    ExponentialMidpoint,
    ImplicitEuler,
    ImplicitMidpoint,
    Trapezoid,
)

Method = ExplicitRungeKutta | AbstractImplicit

METHODS: dict[str, Method] = {
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun2": HEUN2,
    "heun3": HEUN3,
    "rk4": RK4,
    "implicit_euler": ImplicitEuler(),
    "implicit_midpoint": ImplicitMidpoint(),
    "trapezoid": Trapezoid(),
    "deer": ExponentialMidpoint(),
}
"""What `method` may name. `"deer"` is DEER's continuous form, `ExponentialMidpoint`."""

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's methods that choose their steps as they go."""


def find_method(method: str | Method) -> Method:
    """The method of a name, or the method itself.

    Raises:
        ValueError: for a name that is not known, with what to type instead.
        TypeError: for anything else.
    """
    if isinstance(method, ExplicitRungeKutta | AbstractImplicit):
        return method
    if not isinstance(method, str):
        raise TypeError(f"`method` must be a name such as 'rk4', got {type(method).__name__}.")
    if method in METHODS:
        return METHODS[method]
    if method in ADAPTIVE:
        raise ValueError(
            f"`method='{method}'` chooses its steps one after the other. Let it choose them once and keep them: type "
            f"method='rk4', grid=li.ode.adaptive_grid(func, y0, t, method='{method}')."
        )
    near = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got '{method}'.{hint}")
