"""Compiled iterations: `torch.compile` over the whole body of the loop, the user's `f` and its derivatives included.

An iteration on an accelerator reads no number on the host. It is a function from tensors to tensors (see `graphs`), so
it is one graph (`fullgraph=True`) for all iterations. The solve of a gradient is another graph. Decisions between
iterations are not part of a graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import _torch
from lds_iter._torch import StopFlag
from lds_iter.compile import graphs
from lds_iter.compile.graphs import Graph
from lds_iter.derivatives.autodiff import linearize, with_derivatives, without_derivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import Refusals
from lds_iter.derivatives.traceable import RowDerivatives, TraceableDerivatives, refusal
from lds_iter.loop.contract import linearized
from lds_iter.loop.state import LoopOptions, LoopState, Problem, Proposal
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import Composable
from lds_iter.recurrence import (
    Function,
    IterationRequest,
    IterationResult,
    is_linear,
    own_fused_iteration,
    own_linearize,
    own_solve_adjoint,
    own_steps,
    take_rows,
)
from lds_iter.solution import Result

ON_COPIES = "compiled rows of J on copies of the time steps"
"""The way that serves where `f` refuses `vmap`, or a second derivative, while it is compiled."""


class CompileCache:
    """The code that one compiler has made: a body for every method and tolerance; the recurrence is an argument."""

    def __init__(self, compiler: Callable[..., Any]) -> None:
        if not callable(compiler):
            raise TypeError(
                f"`compiler` must be a function such as torch.compile, got {compiler!r}. For options type "
                '`functools.partial(torch.compile, mode="max-autotune-no-cudagraphs")`.'
            )
        self.compiler = compiler
        self.refusals = Refusals()
        self._derivatives: graphs.Derivatives | None = None
        self._graphs: dict[tuple[Any, ...], Graph] = {}

    def __reduce__(self) -> tuple[type[CompileCache], tuple[Callable[..., Any]]]:
        """Compiled code belongs to its process: copies and pickles take the compiler, and compile anew."""
        return CompileCache, (self.compiler,)

    def derivatives(self, f: Function, states: Tensor, inputs: Any) -> graphs.Derivatives:
        """The derivatives to compile, chosen at the first call: by a look at what `f` refuses at the first row.

        Args:
            f, states, inputs: the recurrence, states before some rows, `(n, *batch, D)`, and the inputs of these rows.
        """
        if self._derivatives is None:
            reason = None if own_linearize(f) is not None else refusal(f, states[:1], take_rows(inputs, 0, 1))
            self._derivatives = TraceableDerivatives if reason is None else RowDerivatives
            if reason is not None:
                self.refusals.words[ON_COPIES] = reason
        return self._derivatives

    def graph(
        self,
        make: Callable[..., Graph],
        method: LDSApproximation,
        options: LoopOptions,
        derivatives: graphs.Derivatives,
    ) -> Graph:
        """The compiled `make(method, rtol, atol, derivatives)`."""
        given = method, options.rtol, options.atol, derivatives
        try:
            graph = self._graphs.get((make, *given))
        except TypeError as error:
            raise TypeError(
                f"`method` must be hashable to be compiled, so that its code is found again, got {method!r}. Type "
                "@dataclass(frozen=True) above the class, or frozen=True, eq=False if it holds tensors."
            ) from error
        if graph is None:
            graph = self._graphs[make, *given] = self.compiler(make(*given), fullgraph=True)
        return graph


class Compiled(Composable):
    """A recurrence whose iterations `solve` runs compiled: `fast = li.Compiled(f)`, then `li.solve(fast, ...)`.

    Make it once and use it often, like `torch.compile(f)`. It holds the compiled code, one body for every method and
    tolerance, and releases it when it is deleted. Compiling happens in the first solve and takes seconds; a second T,
    batch or dtype compiles again, this time for any T. The solution is the same, to rounding.

    The adjoint is compiled too, at the first backward pass. A solve with a sliding window, `record`, `progress`,
    `callback` or `stop`, whose host looks at every iteration anyway, runs uncompiled; so does the adjoint in a sliding
    window, and all that `Auto` solves.

    Args:
        f: see `solve`. Everywhere else this object acts as `f` does.
        compiler: what compiles a body, called as `compiler(body, fullgraph=True)`: `torch.compile`, one with options
            such as `functools.partial(torch.compile, mode="max-autotune-no-cudagraphs")`, or `li.cuda_graphs`. Or the
            `code` of another object like this, for a recurrence that differs in nothing but numbers: the same function
            or class with other weights.

    Attributes:
        f: as given.
        code: the compiled code.

    Raises:
        TypeError: for an `f` that is no recurrence or is compiled already, or a `compiler` that is no function.

    Example:
        >>> import functools
        >>> f = li.Compiled(lambda s, u: (0.5 * s + u).tanh(), functools.partial(torch.compile, backend="eager"))
        >>> li.solve(f, torch.zeros(2), torch.ones(1000, 2)).converged
        True
    """

    def __init__(
        self, f: Callable[[Tensor, Any], Tensor], compiler: Callable[..., Any] | CompileCache = torch.compile
    ) -> None:
        if isinstance(f, type) or not callable(f) or isinstance(f, Compiled):
            raise TypeError(f"`f` must be a recurrence, a callable f(s, u) that is not compiled yet, got {f!r}.")
        self.f = without_derivatives(f)
        self.code = compiler if isinstance(compiler, CompileCache) else CompileCache(compiler)

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        """`f(s, inputs)`, uncompiled."""
        return self.f(s, inputs)

    @property
    def is_linear(self) -> bool:
        """Whether `f` is affine in the state."""
        return is_linear(self.f)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        """The derivatives of `f`: its own where it offers them, else by `torch.func`."""
        return linearize(with_derivatives(self.f, self.refusals), s, inputs)

    @property
    def refusals(self) -> Refusals:
        """What `f` has refused of autodiff so far, see `Autodiff`."""
        return self.code.refusals

    def steps(self, s0: Tensor, inputs: Any) -> Tensor | None:
        """All states step by step, if `f` has compiled code for it; else None."""
        own = own_steps(self.f)
        return None if own is None else own(s0, inputs)

    def fused_iteration(self, request: IterationRequest) -> IterationResult | None:
        """A whole iteration by `f`'s own code if it has one, for solves that run uncompiled; else None."""
        own = own_fused_iteration(self.f)
        return None if own is None else own(request)

    def solve_adjoint(self, prev: Tensor, inputs: Any, g: Tensor) -> Tensor | None:
        """The adjoint recurrence solved directly by `f`; None if `f` has no code for it."""
        own = own_solve_adjoint(self.f)
        return None if own is None else own(prev, inputs, g)

    def iterate(self, problem: Problem, method: LDSApproximation, state: LoopState, options: LoopOptions) -> LoopState:
        """One iteration, as `loop.iterate`, compiled."""
        limit = torch.zeros_like(state.iterations) + options.max_iters
        if state.proposal is None:  # an empty one, so that the first iteration is no graph of its own
            nothing = torch.zeros_like(state.iterations)
            empty = Proposal(state.states.clone(), 0, problem.length, nothing > 0, nothing, nothing.clone())
            state = dataclasses.replace(state, proposal=empty)
        with _explained(f"iteration of {method!r}", self.f, state.states[:-1], problem.inputs, state.count):
            size = graphs.size_of(state.count, state.states)
            derivatives = self.code.derivatives(self.f, state.states[:-1], problem.inputs)
            graph = self.code.graph(graphs.iteration, method, options, derivatives)
            fields = graph(self.f, graphs.fields_of(state), size, limit, problem.s0, problem.inputs)
        return graphs.state_of(fields, state.count + 1)

    def iterate_adjoint(
        self, states: Tensor, inputs: Any, g: Tensor, method: LDSApproximation, options: LoopOptions
    ) -> Tensor:
        """All `l_t` of `solve_adjoint`, `(T, *batch, D)`: one call of one graph where `method` is exact for linear
        recurrences, and a call for each further iteration otherwise.

        Args:
            states: the solution, `(T, *batch, D)`, T at least 2.
            inputs: of `f`, without gradients.
            g: the gradients of the states.
            method: for the reversed recurrence.
            options: its tolerances.
        """
        given = self.f, states, inputs, g.contiguous()  # one layout, or each loss would be compiled for its own
        count, stop = 2, StopFlag(lag=_torch.lags(g))
        with _explained(f"adjoint by {method!r}", self.f, states, inputs, 0):
            derivatives = self.code.derivatives(self.f, states, inputs)
            found, parts, fields = self.code.graph(graphs.first_adjoint_step, method, options, derivatives)(*given)
            while not stop.posted((fields[graphs.RESULT] != Result.RUNNING).all()):
                graph = self.code.graph(graphs.next_adjoint_step, method, options, derivatives)
                found, parts, fields = graph(*given, parts, fields, graphs.size_of(count, states))
                count += 1
        return found


@contextlib.contextmanager
def _explained(what: str, f: Function, states: Tensor, inputs: Any, count: int) -> Iterator[None]:
    """Rephrase the errors of a failed compilation, and suppress a misleading warning of the compiler.

    An error that `f` itself raises, which the compiler reports as its own, comes from a call of `f` without a compiler.
    It looks at `.grad` of weights that `f` has computed, and hides the warning, except where warnings are errors.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
            yield
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch.fx")):
            linearized(f, states, inputs, states, (0, len(states), count))
            raise RuntimeError(_explanation(what, error)) from error
        raise


def _explanation(what: str, error: Exception) -> str:
    return (
        f"The {what} did not compile: {str(error).splitlines()[0]} In order of likelihood: `f` or the "
        "method does in Python what a graph cannot hold (numbers read from tensors with .item() or `if`, a generator, "
        "printing; the cause above names the line), so write it with tensors and torch.where; it has been compiled for "
        "too many shapes, because a structure without an operator is traced for each T: use fewer, or "
        "torch._dynamo.config.recompile_limit; there is no C++ compiler. What always works: "
        "`li.solve(compiled.f, ...)`."
    )


def cuda_graphs(body: Graph, **options: Any) -> Graph:
    """A compiler for `Compiled` whose iterations are CUDA graphs: one launch each, for solves that launches dominate.

    `torch.compile(mode="reduce-overhead")`, with what that mode asks of a loop around it: an iteration is a step of its
    own, and what it returns is copied out of the memory of the graph before the next one writes there. Without a GPU it
    is `torch.compile`.

    Args:
        body: the function to compile.
        options: what `Compiled` gives a compiler.
    """
    compiled = torch.compile(body, mode="reduce-overhead", **options)

    def step(*tensors: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return copied(compiled(*tensors))

    return step


def copied(value: Any) -> Any:
    """A pytree with a copy of every tensor in it; the carry of a method may be a dataclass of tensors."""

    def leaf(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.clone()
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            fields = [field.name for field in dataclasses.fields(x) if field.init]
            return dataclasses.replace(x, **{name: copied(getattr(x, name)) for name in fields})
        return x

    return pytree.tree_map(leaf, value)
