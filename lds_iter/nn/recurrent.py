"""An adapter that turns a cell, one step of any network, into a layer that is solved in parallel over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import untraced, without_autocast
from lds_iter.auto import Auto
from lds_iter.compile.compiled import CompileCache, Compiled
from lds_iter.derivatives.autodiff import with_derivatives
from lds_iter.derivatives.refusals import Refusals
from lds_iter.errors import warn_of_slowness
from lds_iter.methods.spelling import check_names
from lds_iter.nn._cell_arguments import check_cell, check_input, check_states, zeros
from lds_iter.nn._cell_problem import CellProblem, cell_problem
from lds_iter.nn._failures import explain_fallback
from lds_iter.nn._gradient import Once, solved, stepped
from lds_iter.nn._recorded import as_leaf, recorded, traced_as_leaf
from lds_iter.nn._shared import check_not_recorded, met, padded_to_a_row, solved_by_ranks
from lds_iter.nn._solve_with import solve_with
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.options import (
    OPTION_NAMES,
    Option,
    SolveOptions,
    cache_for,
    lasting,
    restored,
)
from lds_iter.nn.suited import default_auto
from lds_iter.recurrence import take_rows
from lds_iter.solution import Solution

LOOP = "For a cell of your own call it in a loop: `for x_t in x: state = layer.cell(x_t, state)`."


class Recurrent(torch.nn.Module):
    """A layer that applies a cell at every time step, solved in parallel over time.

    The cell is one of three kinds:

    - `torch.nn.RNNCell`, `GRUCell` or `LSTMCell`: by default step by step in compiled code on a CPU, and solved with
      their derivatives in closed form where that cannot serve.
    - An object or module with a method `linearize(s, u)`: a recurrence `f(s, u)` that knows its own derivatives, as
      `solve` takes it, with a state of one tensor. Where it has a method `inputs(x)`, that is applied to all inputs at
      once, before the solve.
    - Any other module or function `cell(x, state) -> state`, the convention of torch's cells: `x` is `(N, ...)`, and
      the state a tensor `(N, D)` or a pytree of tensors that begin with N. Rows must not see each other, and the cell
      must not be random. Its derivatives come from `torch.func`. For a cell that acts channel by channel, type
      `method=li.QuasiNewton(li.Hutchinson())`: one product, exact for a diagonal Jacobian.

    Where the solve does not converge within its budget, the states are computed step by step, with one
    `PerformanceWarning`; while a call is recorded or transformed (tracing, `torch.func`, meta tensors), without one.
    Autocast does not reach the cell: states keep the dtype of the initial state.

    Args:
        cell: see above.
        batch_first: inputs and outputs are `(B, T, ...)` instead of `(T, B, ...)`.
        options: those of `SolveOptions`, by name; each is an attribute too, and may be changed at any time. Without a
            `method` an `Auto` of the layer's own solves, which learns from one forward to the next, with
            `BlockNewton(2)` among its candidates for an `LSTMCell`.

    Attributes:
        options: the `SolveOptions`.
        last_solution: the `Solution` of the last forward, without a graph and in memory of its own; None before the
            first, and where nothing was solved. Not copied or pickled.

    Raises:
        TypeError: when `cell` is no module or function, and for unknown options.
        ValueError: for options that cannot work.

    Example:
        >>> layer = li.nn.Recurrent(torch.nn.LSTMCell(3, 4))
        >>> (h, c), (h_n, c_n) = layer(torch.randn(100, 2, 3))
        >>> h.shape, h_n.shape
        (torch.Size([100, 2, 4]), torch.Size([2, 4]))
    """

    options: SolveOptions = SolveOptions()
    method, rtol, atol, window, max_iters, warm_start, compiler, mesh = (Option() for _ in OPTION_NAMES)
    last_solution: Solution | None = None
    _auto: Auto | None = None
    _cache: CompileCache | None = None
    _refusals: Refusals | None = None
    _warned: bool = False

    def __init__(self, cell: Callable[..., Any], *, batch_first: bool = False, **options: Any) -> None:
        check_names("Recurrent", options, ("batch_first", *OPTION_NAMES))
        super().__init__()
        self.cell = check_cell(cell)
        self.batch_first = batch_first
        self.options = SolveOptions(**options)

    @untraced
    def forward(self, input: Tensor, state: Any = None) -> tuple[Any, Any]:
        """Apply the cell at every time step.

        Args:
            input: `(T, B, ...)`, or `(B, T, ...)` with `batch_first`, or `(T, D_in)` for a single sequence.
            state: before the first step, as the cell takes it; zeros when None, for cells with a `hidden_size`.

        Returns:
            The states at all times, `(T, B, ...)`, and the last one, `(B, ...)`; pytrees like `state`.

        Raises:
            TypeError, ValueError: when `input` or `state` do not fit the cell or each other.
        """
        if traced_as_leaf(self, input):
            return as_leaf(self, input, state)
        if self.options.mesh is not None:
            return self._of_ranks(input, state)
        check_input(self.cell, input)
        given = self._arranged(input, state)
        with without_autocast(input):
            problem = cell_problem(self.cell, *given)
            found = self._states(problem, len(given[0]), recorded(*pytree.tree_leaves(given)))
            states = problem.unpack(found)
        return self._as_given(input, states, pytree.tree_map(lambda leaf: leaf[-1].clone(), states))

    def _arranged(self, input: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The inputs, `(T, B, ...)`, and the state before the first step, `(B, ...)`."""
        single = input.dim() == 2
        x = input.unsqueeze(1) if single else input.transpose(0, 1) if self.batch_first else input
        if single and state is not None:
            state = pytree.tree_map(lambda leaf: leaf.unsqueeze(0) if isinstance(leaf, Tensor) else leaf, state)
        return x.contiguous(), zeros(self.cell, x) if state is None else check_states(self.cell, state, x)

    def _as_given(self, input: Tensor, states: Any, final: Any) -> tuple[Any, Any]:
        """States and final state in the form that the input has."""
        if input.dim() == 2:
            return pytree.tree_map(lambda leaf: leaf.squeeze(1), states), pytree.tree_map(lambda leaf: leaf[0], final)
        if self.batch_first:
            states = pytree.tree_map(lambda leaf: leaf.transpose(0, 1), states)
        return states, final

    def _of_ranks(self, input: Tensor, state: Any) -> tuple[Any, Any]:
        """The states of this rank's time steps, and the last one of all, where the ranks of a mesh share them."""

        def prepare() -> tuple[CellProblem, int, dict[str, Any]]:
            check_not_recorded(input, state)
            by_batch = self.batch_first and isinstance(input, Tensor) and input.dim() > 2
            given, rows = padded_to_a_row(input, 1 if by_batch else 0)
            check_input(self.cell, given)
            x, start = self._arranged(given, state)
            with without_autocast(x):
                problem = cell_problem(self.cell, x[:rows], start)
            return problem, rows, {"layer": repr(self), "batch": x.shape[1]}

        problem, shards = met(self.options.mesh, prepare)
        who = f"Recurrent({type(self.cell).__name__})"
        with without_autocast(input):
            found, self.last_solution = solved_by_ranks(
                problem.f, problem.s0, problem.inputs, shards, self.options, (self, 0), who
            )
        states, final = problem.unpack(found[0]), problem.unpack(found[1].unsqueeze(0))
        return self._as_given(input, states, pytree.tree_map(lambda leaf: leaf[0], final))

    def _states(self, problem: CellProblem, length: int, stepwise: bool) -> Tensor:
        """All states of the recurrence, `(T, B, D)`."""
        self.last_solution = None
        f, s0, inputs = problem.f, problem.s0, problem.inputs
        if stepwise:
            return _step_by_step(f, s0, inputs, length)
        if isinstance(f, CellRecurrence):
            found = stepped(f, s0, inputs) if self.options.method is None and s0.device.type == "cpu" else None
            if found is not None:
                return found
            states, solution = solved(f, s0, inputs, self._solve)
        else:
            solution = self._solve(f, s0, inputs)
            states, solution = Once.apply(LOOP, solution.states), solution.light()
        self.last_solution = solution
        if solution.converged:
            self._remember(states)
            return states  # pyright: ignore[reportReturnType]
        if not self._warned:
            self._warned = True
            instead = "Its states were computed step by step"
            warn_of_slowness(explain_fallback(f"Recurrent({type(self.cell).__name__})", "", solution, instead))
        return _step_by_step(f, s0, inputs, length)

    def _solve(self, f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any) -> Solution:
        options, cache, rows = self.options, self._compiled(), pytree.tree_leaves(inputs)[0].shape[0]
        method = self._chooser() if options.method is None else options.method
        known = with_derivatives(f, self._refused()) if cache is None else Compiled(f, cache)
        return solve_with(options, method, known, s0, inputs, rows, where=(self, 0))

    def _remember(self, states: Any) -> None:
        if self.options.warm_start is not None:
            self.options.warm_start.remember((self, 0), states.detach())

    def _chooser(self) -> Auto:
        self._auto = self._auto or default_auto(self.cell)
        return self._auto

    def _refused(self) -> Refusals:
        """What the cell has refused of autodiff, in all forwards so far."""
        if self._refusals is None:
            self._refusals = Refusals()
        return self._refusals

    def _compiled(self) -> CompileCache | None:
        """The compiled iterations of the present compiler."""
        self._cache = cache_for(self.options.compiler, self._cache)
        return self._cache

    def __getstate__(self) -> dict[str, Any]:
        return lasting(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(restored(state))


def _step_by_step(f: Callable[[Tensor, Any], Tensor], s0: Tensor, inputs: Any, length: int) -> Tensor:
    """The plain loop over time. It reads no number on the host, so it can be traced."""
    states, s = [], s0.unsqueeze(0)
    for t in range(length):
        s = f(s, take_rows(inputs, t, t + 1))
        states.append(s)
    return torch.cat(states)
