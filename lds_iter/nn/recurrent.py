"""An adapter that turns a cell, one step of any network, into a layer that is solved in parallel over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import untraced
from lds_iter.auto import Auto
from lds_iter.checks import check_method
from lds_iter.compile.compiled import CompileCache, Compiled
from lds_iter.errors import warn_of_slowness
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn._arguments import check_budget, check_compiler, code_of, default_auto, without_what_was_found
from lds_iter.nn._weights import NAMES
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.rnn import RNNRecurrence
from lds_iter.recurrence import fold, ravel
from lds_iter.solution import Solution
from lds_iter.solve import sequential, solve


@dataclass(frozen=True)
class _Problem:
    """A cell as the arguments of `solve`, and the way back from its states to those of the cell."""

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any
    unpack: Callable[[Tensor], Any]


class Recurrent(torch.nn.Module):
    """A layer that applies a cell at every time step, solved in parallel over time.

    The cell is one of three kinds:

    - `torch.nn.RNNCell`, `GRUCell` or `LSTMCell`: solved with their derivatives in closed form.
    - An object or module with a method `linearize(s, u)`: a recurrence `f(s, u)` that knows its own derivatives, as
      `solve` takes it, with a state of one tensor. Where it has a method `inputs(x)`, that is applied to all inputs at
      once, before the solve.
    - Any other module or function `cell(x, state) -> state`, the convention of torch's cells: `x` is `(N, ...)`, and
      the state a tensor `(N, D)` or a pytree of tensors that begin with N. Rows must not see each other, and the cell
      must not be random. Its derivatives come from `torch.func`. For a cell that acts channel by channel, type
      `method=li.QuasiNewton(li.Hutchinson())`: one product, exact for a diagonal Jacobian.

    Where the solve does not converge within its budget, the states are computed step by step, with one
    `PerformanceWarning`.

    Args:
        cell: see above.
        batch_first: inputs and outputs are `(B, T, ...)` instead of `(T, B, ...)`.
        method: of the solve, or `Auto(...)`; when None an `Auto` of the layer's own, which learns from one forward to
            the next, with `BlockNewton(2)` among its candidates for an `LSTMCell`.
        rtol: see `solve`.
        atol: see `solve`.
        window: see `solve`.
        max_iters: iterations for every stretch of `window` time steps before it falls back; `Auto` needs no limit.
        compiler: runs the solves compiled, as `Compiled` does with such an argument: `torch.compile`. Needs a `method`.

    Attributes:
        last_solution: the `Solution` of the last forward, without a graph; None before the first. Not copied or
            pickled.

    Example:
        >>> layer = li.nn.Recurrent(torch.nn.LSTMCell(3, 4))
        >>> (h, c), (h_n, c_n) = layer(torch.randn(100, 2, 3))
        >>> h.shape, h_n.shape
        (torch.Size([100, 2, 4]), torch.Size([2, 4]))
    """

    last_solution: Solution | None = None
    _auto: Auto | None = None
    _code: CompileCache | None = None
    _warned: bool = False

    def __init__(
        self,
        cell: Callable[..., Any],
        *,
        batch_first: bool = False,
        method: LDSApproximation | AbstractStrategy | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        window: int | None = None,
        max_iters: int = 100,
        compiler: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(cell, type) or not callable(cell):
            raise TypeError(f"`cell` must be a module or function, cell(x, state) -> state, got {cell!r}.")
        self.cell = cell
        self.batch_first = batch_first
        self.method = None if method is None else check_method(method)
        self.rtol, self.atol, self.window, self.max_iters = rtol, atol, window, max_iters
        check_budget(window, max_iters, 1)
        self.compiler = check_compiler(compiler, self.method)

    @untraced
    def forward(self, input: Tensor, state: Any = None) -> tuple[Any, Any]:
        """Apply the cell at every time step.

        Args:
            input: `(T, B, ...)`, or `(B, T, ...)` with `batch_first`, or `(T, D_in)` for a single sequence.
            state: before the first step, as the cell takes it; zeros when None, for cells with a `hidden_size`.

        Returns:
            The states at all times, `(T, B, ...)`, and the last one, `(B, ...)`; pytrees like `state`.
        """
        single = input.dim() == 2
        x = input.unsqueeze(1) if single else input.transpose(0, 1) if self.batch_first else input
        if single and state is not None:
            state = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), state)
        state = _zeros(self.cell, x) if state is None else state
        problem = _problem(self.cell, x.contiguous(), state)
        states = problem.unpack(self._states(problem, x.shape[0]))
        final = pytree.tree_map(lambda leaf: leaf[-1], states)
        if single:
            return pytree.tree_map(lambda leaf: leaf.squeeze(1), states), pytree.tree_map(lambda leaf: leaf[0], final)
        if self.batch_first:
            states = pytree.tree_map(lambda leaf: leaf.transpose(0, 1), states)
        return states, final

    def _states(self, problem: _Problem, length: int) -> Tensor:
        method = self._strategy()
        limit = check_budget(self.window, self.max_iters, length)
        self._code = code_of(self.compiler, self._code)
        solution = solve(
            problem.f if self._code is None else Compiled(problem.f, self._code),
            problem.s0,
            problem.inputs,
            method,
            rtol=self.rtol,
            atol=self.atol,
            window=self.window,
            max_iters=None if isinstance(method, Auto) else limit,  # `Auto` knows when to go step by step
            throw=False,
        )
        self.last_solution = solution.light()
        if solution.converged:
            return solution.states
        if not self._warned:
            self._warned = True
            message = (
                f"`Recurrent({type(self.cell).__name__})` did not converge within max_iters={self.max_iters} "
                f"iterations (residual up to {float(solution.residual.max()):.2g}); its states were computed step by "
                "step, as they will be whenever this happens (shown once per module). Try another `method`, such as "
                "li.Then(li.Jacobi(), li.Newton(), 16), or a larger `max_iters`: T always suffices."
            )
            warn_of_slowness(message)
        return sequential(problem.f, problem.s0, problem.inputs)

    def _strategy(self) -> LDSApproximation | AbstractStrategy:
        if self.method is not None:
            return self.method
        if self._auto is None:
            self._auto = default_auto(self.cell)
        return self._auto

    def __getstate__(self) -> dict[str, Any]:
        return without_what_was_found(self.__dict__)


def _zeros(cell: Any, x: Tensor) -> Any:
    """The state that torch's cells begin with when none is given."""
    width = getattr(cell, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(
            f"`state` is needed: {type(cell).__name__} has no `hidden_size` to tell the shape of its state. Pass what "
            "the cell takes, tensors that begin with the batch, such as torch.zeros(B, D)."
        )
    zeros = x.new_zeros(x.shape[1], width)
    return (zeros, zeros) if isinstance(cell, torch.nn.LSTMCell) else zeros


def _problem(cell: Any, x: Tensor, state: Any) -> _Problem:
    if isinstance(cell, torch.nn.LSTMCell):
        f = LSTMRecurrence(**_weights(cell))
        return _Problem(f, f.pack(*state), f.inputs(x), f.unpack)
    if isinstance(cell, torch.nn.RNNCell | torch.nn.GRUCell) or hasattr(cell, "linearize"):
        f: Any = cell
        if isinstance(cell, torch.nn.RNNCell):
            f = RNNRecurrence(**_weights(cell), nonlinearity=cell.nonlinearity)  # pyright: ignore[reportArgumentType]
        elif isinstance(cell, torch.nn.GRUCell):
            f = GRURecurrence(**_weights(cell))
        inputs = f.inputs(x) if callable(getattr(f, "inputs", None)) else x
        return _Problem(f, state, inputs, lambda states: states)
    s0, unravel = ravel(state, batch_dims=1)
    step = fold(lambda s, x: ravel(cell(x, unravel(s)), batch_dims=1)[0])
    return _Problem(step, s0, x, unravel)


def _weights(cell: torch.nn.RNNCellBase) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in NAMES if getattr(cell, name, None) is not None}
