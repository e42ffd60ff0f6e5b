"""Compiled iterations: `torch.compile` over the whole body of the loop, the user's `f` and its derivatives included.

The body on an accelerator looks at nothing: it is a function from tensors to tensors,

    states, frontier, result, counts, residuals, carry  ->  the same, one iteration later

and so it is one graph (`fullgraph=True`), whatever the iteration. The frontier is a tensor in it, the scans are
operators (`scan_operators`), and the age of the rows, an integer by which `Then` and `Chord` choose, enters as the size
of an empty tensor, which a compiler may leave open. What a solve decides between iterations stays outside.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter import scan_operators as scan_operators  # its operators keep the graphs small
from lds_iter.linearization import AbstractDerivatives, linearize
from lds_iter.loop import iterate
from lds_iter.methods.base import LDSApproximation
from lds_iter.reverse import ReverseDerivatives
from lds_iter.workspace import Problem, Rules, Workspace

Body = Callable[..., tuple[Any, ...]]

FIELDS = (
    "buffer",
    "frontier",
    "result",
    "iterations",
    "residual",
    "accepted_residual",
    "evaluations",
    "resets",
    "carry",
)
"""What an iteration changes in a `Workspace`."""


class Compiled:
    """A recurrence whose iterations `solve` runs compiled: `fast = li.Compiled(f)`, then `li.solve(fast, ...)`.

    Made once and used often, like `torch.compile(f)`: it holds the compiled code, one body for every method and
    tolerance that it meets, and lets go of it when it dies. Compiling happens in the first solve and takes seconds; a
    second T, batch or dtype compiles again, this time for any T. The solution is the same, to rounding.

    A solve with a sliding window, `record`, `progress`, `callback` or `stop`, whose host looks at every iteration
    anyway, runs uncompiled, and so does the adjoint.

    Args:
        f: see `solve`. Everywhere else this object acts as `f` does.
        compiler: what compiles a body, called as `compiler(body, fullgraph=True)`: `torch.compile`, one with options
            such as `functools.partial(torch.compile, mode="max-autotune-no-cudagraphs")`, or `li.cuda_graphs`.

    Example:
        >>> import functools
        >>> f = li.Compiled(lambda s, u: (0.5 * s + u).tanh(), functools.partial(torch.compile, backend="eager"))
        >>> li.solve(f, torch.zeros(2), torch.ones(1000, 2)).converged
        True
    """

    def __init__(self, f: Callable[[Tensor, Any], Tensor], compiler: Callable[..., Any] = torch.compile) -> None:
        if isinstance(f, type) or not callable(f) or isinstance(f, Compiled):
            raise TypeError(f"`f` must be a recurrence, a callable f(s, u) that is not compiled yet, got {f!r}.")
        if not callable(compiler):
            raise TypeError(
                f"`compiler` must be a function such as torch.compile, got {compiler!r}. For options type "
                '`functools.partial(torch.compile, mode="max-autotune-no-cudagraphs")`.'
            )
        self.f = f
        self.compiler = compiler
        self._bodies: dict[tuple[LDSApproximation, float, float], Body] = {}

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        """`f(s, inputs)`, uncompiled."""
        return self.f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        """The derivatives of `f`: its own where it offers them, else by `torch.func`."""
        return linearize(self.f, s, inputs)

    def iterate(self, problem: Problem, method: LDSApproximation, state: Workspace, rules: Rules) -> Tensor:
        """One iteration, as `loop.iterate`, compiled where the host does not look."""
        if rules.watched(problem.length):
            return iterate(problem, method, state, rules)
        age = state.buffer.new_empty(state.sweeps + 2, 0)  # compilers take sizes of 0 and 1 for special ones
        torch._dynamo.maybe_mark_dynamic(age, 0)
        limit = torch.zeros_like(state.iterations) + rules.max_iters
        given = [getattr(state, name) for name in FIELDS]
        try:
            *found, finished = self._body(method, rules)(*given, age, limit, problem.s0, problem.inputs)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "torch.fx")):
                raise RuntimeError(_explanation(method, error)) from error
            raise
        for name, value in zip(FIELDS, found, strict=True):
            setattr(state, name, value)
        state.sweeps += 1
        return finished

    def _body(self, method: LDSApproximation, rules: Rules) -> Body:
        key = method, rules.rtol, rules.atol
        try:
            body = self._bodies.get(key)
        except TypeError as error:
            raise TypeError(
                f"`method` must be hashable to be compiled, so that its code is found again, got {method!r}. Type "
                "@dataclass(frozen=True) above the class, or frozen=True, eq=False if it holds tensors."
            ) from error
        if body is None:
            body = self._bodies[key] = self.compiler(_body(self.f, method, rules.rtol, rules.atol), fullgraph=True)
        return body


def _body(f: Callable[[Tensor, Any], Tensor], method: LDSApproximation, rtol: float, atol: float) -> Body:
    """One iteration as a function of tensors: `FIELDS`, then the age, the limit of iterations, `s0` and the inputs."""

    def body(
        buffer: Tensor,
        frontier: Tensor,
        result: Tensor,
        iterations: Tensor,
        residual: Tensor,
        accepted_residual: Tensor,
        evaluations: Tensor,
        resets: Tensor,
        carry: Any,
        age: Tensor,
        limit: Tensor,
        s0: Tensor,
        inputs: Any,
    ) -> tuple[Any, ...]:
        length = buffer.shape[0] - 1
        state = Workspace(
            buffer=buffer.clone(),  # the loop writes in place, and the compiler undoes it
            spare=torch.empty_like(buffer),
            frontier=frontier,
            result=result,
            iterations=iterations.clone(),
            residual=residual,
            accepted_residual=accepted_residual,
            evaluations=evaluations.clone(),
            resets=resets.clone(),
            age=None,
            carry=carry,
            sweeps=age.shape[0] - 2,
        )
        rules = Rules(rtol, atol, limit, length, record=False, observers=())
        finished = iterate(Problem(_Traceable(f), s0, inputs, length), method, state, rules)
        return (
            state.buffer,
            state.frontier,
            state.result,
            state.iterations,
            state.residual,
            state.accepted_residual,
            state.evaluations,
            state.resets,
            state.carry,
            finished,
        )

    # Compilers keep what they compile with the code of a function. A copy of the code makes it this body's own: it
    # counts against no other body's limit, and dies with it.
    return types.FunctionType(body.__code__.replace(), body.__globals__, body.__name__, None, body.__closure__)


class _Traceable:
    """`f`, with derivatives that can be compiled for any T."""

    def __init__(self, f: Callable[[Tensor, Any], Tensor]) -> None:
        self._f = f

    def __call__(self, s: Tensor, inputs: Any) -> Tensor:
        return self._f(s, inputs)

    def linearize(self, s: Tensor, inputs: Any) -> AbstractDerivatives:
        own = getattr(self._f, "linearize", None)
        return ReverseDerivatives(self._f, s, inputs) if own is None else own(s, inputs)


def _explanation(method: LDSApproximation, error: Exception) -> str:
    return (
        f"The iteration of {method!r} did not compile: {str(error).splitlines()[0]} In order of likelihood: `f` or the "
        "method does in Python what a graph cannot hold (numbers read from tensors with .item() or `if`, a generator, "
        "printing; the cause above names the line), so write it with tensors and torch.where; it has been compiled for "
        "too many shapes, because a structure without an operator is traced for each T: use fewer, or "
        "torch._dynamo.config.recompile_limit; there is no C++ compiler. What always works: "
        "`li.solve(compiled.f, ...)`."
    )


def cuda_graphs(body: Body, **options: Any) -> Body:
    """A compiler for `Compiled` whose iterations are CUDA graphs: no launches but one, where these take the time.

    `torch.compile(mode="reduce-overhead")`, with what that mode asks of a loop around it: an iteration is a step of its
    own, and what it returns is copied out of the memory of the graph before the next one writes there. Without a GPU it
    is `torch.compile`.

    Args:
        body: the function to compile.
        options: what `Compiled` gives a compiler.
    """
    compiled = torch.compile(body, mode="reduce-overhead", **options)

    def step(*tensors: Any) -> tuple[Any, ...]:
        torch.compiler.cudagraph_mark_step_begin()
        return copied(compiled(*tensors))

    return step


def copied(value: Any) -> Any:
    """A pytree with a copy of every tensor in it; what a method remembers may be a dataclass of tensors."""

    def leaf(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.clone()
        if dataclasses.is_dataclass(x) and not isinstance(x, type):
            fields = [field.name for field in dataclasses.fields(x) if field.init]
            return dataclasses.replace(x, **{name: copied(getattr(x, name)) for name in fields})
        return x

    return pytree.tree_map(leaf, value)
