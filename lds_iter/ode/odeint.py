"""`odeint` and `odeint_adjoint`, as torchdiffeq has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import spelled
from lds_iter.ode.field import Func
from lds_iter.ode.integrate import integrate
from lds_iter.ode.methods import Method
from lds_iter.solution import Progress


@spelled
def odeint(
    func: Func,
    y0: Any,
    t: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    method: str | Method | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: None = None,
    grid: Tensor | None = None,
    approximation: LDSApproximation | None = None,
    guess: Any = None,
    window: int | None = None,
    max_iters: int | None = None,
    batch_dims: int | None = None,
    callback: Callable[[Progress], object] | None = None,
) -> Any:
    """Solve `dy/dt = func(t, y)`, `y(t[0]) = y0`, for all steps at once; torchdiffeq's signature.

    Gradients reach `y0`, what `func` is made of, and `t`: those of the steps taken, exactly, in memory that grows with
    the number of steps as one evaluation of `func` does.

    Args:
        func: `func(t, y)`, from a time without dimensions and a state to the slope, in the structure of `y0`.
        y0: the state at `t[0]`: a float32 or float64 tensor of any shape, or a tuple of them.
        t: the times `(N)`, increasing or decreasing; a step leads from each one to the next.
        rtol: how far the solution may be from the one that steps after each other give, relative to its numbers, as
            long as the equation does not amplify differences; 1e-5 in float32 and 1e-10 in float64 when None. It says
            nothing of the error of the steps themselves, which their size decides.
        atol: the same, absolute.
        method: `"rk4"` (when None), `"euler"`, `"midpoint"`, `"heun2"`, `"heun3"`, as in torchdiffeq;
            `"implicit_euler"`, `"implicit_midpoint"`, `"trapezoid"`; `"deer"`, the field linearized at midpoints; or a
            method object.
        options: `{"substeps": m}` equal steps between each two times; torchdiffeq's `step_size`, `grid_constructor`
            and `interp`.
        event_fn: not possible for all steps at once.
        grid: the nodes of the steps instead, such as `li.ode.adaptive_grid` finds.
        approximation: how the recurrence over the steps is approximated. When None, Newton's method, for explicit
            methods with the Jacobian of `func` in the middle of a step in place of those at all stages
            (`MidpointJacobian`); `li.Newton()` has the exact ones.
        guess: where the iteration starts: the states after every step in the structure of `y0`, each tensor
            `(T, ...)`, or a policy of `li.solve`; when None the solution on a grid ten times coarser.
        window: evaluate at most this many steps at once: for chaotic equations, and to bound memory.
        max_iters: the limit of iterations; none for explicit methods and 100 for implicit ones when None.
        batch_dims: how many leading dimensions are independent of each other; found out when None.
        callback: called with a `Progress` after every iteration.

    Returns:
        The states at the times `t`, in the structure of `y0`, each tensor `(N, ...)`; the first row is `y0`.

    Raises:
        TypeError, ValueError: for arguments that cannot work.
        SolveError: the iteration did not converge; it carries the solution reached.

    Example:
        >>> y = li.ode.odeint(lambda t, y: -y, torch.ones(1), torch.linspace(0, 1, 1001))
        >>> y.shape, round(float(y[-1]), 5)
        (torch.Size([1001, 1]), 0.36788)
    """
    if event_fn is not None:
        raise ValueError(
            "`event_fn` ends a solution where a later state says so, which needs one step after the other. Solve on a "
            "fixed span and look for the event in the result, or use torchdiffeq."
        )
    found = integrate(
        func, y0, t, rtol=rtol, atol=atol, method=method, options=options, grid=grid, approximation=approximation,
        guess=guess, window=window, max_iters=max_iters, batch_dims=batch_dims, callback=callback,
    )  # fmt: skip
    return found.ys


@spelled
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
