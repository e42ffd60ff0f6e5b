"""Drop-in `RNN`, `GRU` and `LSTM`: the modules of `torch.nn`, with only `forward` replaced."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lds_iter._torch import untraced
from lds_iter.auto import Auto
from lds_iter.checks import check_method, check_names
from lds_iter.compile.compiled import CompileCache
from lds_iter.errors import warn_of_slowness
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn._arguments import (
    check_budget,
    check_compiler,
    code_of,
    default_auto,
    explain_fallback,
    initial_states,
    without_what_was_found,
)
from lds_iter.nn._sequences import like_input, time_first
from lds_iter.nn._stack import NotFinite, Options, OverBudget, Recurrence, run
from lds_iter.nn._weights import layer_weights
from lds_iter.nn.gru import GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence
from lds_iter.nn.rnn import RNNRecurrence
from lds_iter.nn.warm_start import WarmStart
from lds_iter.solution import Solution

TORCHS = (*list(inspect.signature(torch.nn.RNNBase.__init__).parameters)[2:], "nonlinearity")
"""The names of the arguments of `torch.nn`'s layers, which do not spell them out themselves."""

OURS = ("method", "rtol", "atol", "window", "max_iters", "warm_start", "compiler")


class ParallelLayers(torch.nn.RNNBase):
    """What `RNN`, `GRU` and `LSTM` share: the layer of `torch.nn`, solved in parallel over time.

    Gradients come from the implicit adjoint of `solve`. Where a solve does not converge within its budget, the whole
    forward is that of `torch.nn`, with one `PerformanceWarning` per module; so it is, without a warning, for inputs
    that are not finite. Half precision is solved in float32 and cast back.

    The constructor takes the arguments of the layer of `torch.nn`, and these; each is an attribute too, and may be
    changed at any time.

    Args:
        arguments: those of the layer of `torch.nn`, by position.
        method: of the solves, or `Auto(...)`. When None, an `Auto` of the layer's own, which chooses between parallel
            evaluation and torch's kernel for each layer and direction, and learns from one forward to the next.
        rtol: see `solve`.
        atol: see `solve`.
        window: see `solve`.
        max_iters: the budget: iterations for every stretch of `window` time steps (all of them, without a window)
            before the layer falls back.
        warm_start: start from the states that each sample had last time.
        compiler: runs the solves compiled, as `Compiled` does with such an argument: `torch.compile`. Needs a `method`.
        named_arguments: those of the layer of `torch.nn`, by name; it refuses what it does not know.

    Attributes:
        last_solution: of the last forward, a `Solution` for each layer and direction, in the order of torch's weights;
            without a graph. Not copied or pickled with the module. Where `Auto` went to torch's kernel, its result
            code is `STOPPED`, its residual NaN, and `decisions` says why; empty where torch's kernel answered
            at once: for a short sequence, because of a decision not long ago, or, an LSTM's first, to be timed by it.
    """

    # Defaults on the class: `parallelize` turns a module of `torch.nn` into one of these without calling `__init__`.
    method: LDSApproximation | AbstractStrategy | None = None
    rtol: float | None = None
    atol: float | None = None
    window: int | None = None
    max_iters: int = 100
    warm_start: WarmStart | None = None
    compiler: Callable[..., Any] | None = None
    _code: CompileCache | None = None
    _auto: Auto | None = None
    last_solution: tuple[Solution, ...] = ()
    _warned: bool = False

    def __init__(
        self,
        *arguments: Any,
        method: LDSApproximation | AbstractStrategy | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        window: int | None = None,
        max_iters: int = 100,
        warm_start: WarmStart | None = None,
        compiler: Callable[..., Any] | None = None,
        **named_arguments: Any,
    ) -> None:
        check_names(type(self).__name__, named_arguments, (*TORCHS, *OURS))
        super().__init__(*arguments, **named_arguments)
        self.configure(
            method=method,
            rtol=rtol,
            atol=atol,
            window=window,
            max_iters=max_iters,
            warm_start=warm_start,
            compiler=compiler,
        )

    def configure(
        self,
        *,
        method: LDSApproximation | AbstractStrategy | None,
        rtol: float | None,
        atol: float | None,
        window: int | None,
        max_iters: int,
        warm_start: WarmStart | None,
        compiler: Callable[..., Any] | None,
    ) -> None:
        """Set the options of the solve; see the class for what each means."""
        self.method = None if method is None else check_method(method)
        self.rtol, self.atol = rtol, atol
        check_budget(window, max_iters, 1)
        self.window, self.max_iters, self.warm_start = window, max_iters, warm_start
        self.compiler = check_compiler(compiler, self.method)

    @untraced
    def forward(self, input: Any, hx: Any = None) -> Any:
        """As in `torch.nn`: returns the output and the final states."""
        states = initial_states(self, input, hx)
        if states is None:
            return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with torch.autocast(states[0].device.type, enabled=False):
                return self._parallel(input, states)
        except NotFinite:
            self.last_solution = ()
        except OverBudget as failure:
            self.last_solution = failure.solutions
            if not self._warned:
                self._warned = True
                warn_of_slowness(explain_fallback(self, self._strategy(), failure.solutions))
        return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]

    def _parallel(self, input: Any, states: tuple[Tensor, ...]) -> tuple[Any, Any]:
        dtype = layer_weights(self, 0, False)["weight_ih"].dtype
        compute = torch.promote_types(dtype, torch.float32)  # half precision is too coarse for residuals
        x, lengths = time_first(input, self.batch_first)

        def layers(layer: int, backward: bool) -> Recurrence:
            weights = layer_weights(self, layer, backward)
            weights = {name: weight.to(compute) for name, weight in weights.items()}
            return self._recurrence(weights)

        method = self._strategy()
        options = Options(method, self.rtol, self.atol, self.window, self.max_iters, self.warm_start, self._compiled())
        states = tuple(state.to(compute) for state in states)
        output, finals, solutions = run(self, layers, x.to(compute), lengths, states, options)
        self.last_solution = tuple(solutions)
        finals = tuple(final.to(dtype) for final in finals)
        if not isinstance(input, PackedSequence) and input.dim() == 2:
            finals = tuple(final.squeeze(1) for final in finals)
        shaped = like_input(output.to(dtype), input, lengths, self.batch_first)
        return shaped, finals if isinstance(self, torch.nn.LSTM) else finals[0]

    def _recurrence(self, weights: dict[str, Tensor]) -> Recurrence:
        raise NotImplementedError

    def _strategy(self) -> LDSApproximation | AbstractStrategy:
        """The method; where none was given an `Auto` of the layer's own, which learns from forward to forward."""
        if self.method is not None:
            return self.method
        if self._auto is None:
            self._auto = default_auto(self)
        return self._auto

    def _compiled(self) -> CompileCache | None:
        """What has been compiled, for the compiler of now."""
        self._code = code_of(self.compiler, self._code)
        return self._code

    def __getstate__(self) -> dict[str, Any]:
        return without_what_was_found(super().__getstate__())


class RNN(ParallelLayers, torch.nn.RNN):
    """`torch.nn.RNN`, solved in parallel over time. Same constructor, parameters, `state_dict`, inputs and outputs.

    The further arguments are those of `ParallelLayers`.
    """

    def _recurrence(self, weights: dict[str, Tensor]) -> Recurrence:
        return RNNRecurrence(**weights, nonlinearity=self.nonlinearity)  # pyright: ignore[reportArgumentType]


class GRU(ParallelLayers, torch.nn.GRU):
    """`torch.nn.GRU`, solved in parallel over time. Same constructor, parameters, `state_dict`, inputs and outputs.

    The further arguments are those of `ParallelLayers`.
    """

    def _recurrence(self, weights: dict[str, Tensor]) -> Recurrence:
        return GRURecurrence(**weights)


class LSTM(ParallelLayers, torch.nn.LSTM):
    """`torch.nn.LSTM`, solved in parallel over time. Same constructor, parameters, `state_dict`, inputs and outputs.

    The further arguments are those of `ParallelLayers`. `Auto` has `BlockNewton(2)` to choose from by default: a 2x2
    block for each cell's h and c. The states of `last_solution` are such pairs, `(T, B, 2 * hidden_size)`, h before the
    projection.
    """

    def _recurrence(self, weights: dict[str, Tensor]) -> Recurrence:
        return LSTMRecurrence(**weights)
