"""Drop-in `RNN`, `GRU` and `LSTM`: the modules of `torch.nn`, with only `forward` replaced."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from lds_iter._torch import untraced
from lds_iter.auto import Auto
from lds_iter.compile.compiled import CompileCache
from lds_iter.errors import warn_of_slowness
from lds_iter.methods.spelling import check_names
from lds_iter.nn._boundary import torch_is_faster
from lds_iter.nn._failures import explain_fallback
from lds_iter.nn._forward import forward_pass
from lds_iter.nn._plan import FASTER, OVER_BUDGET, LayerOutcome, Plan
from lds_iter.nn._recorded import as_leaf, recorded, traced_as_leaf
from lds_iter.nn.options import (
    OPTION_NAMES,
    OWN_STATE,
    Option,
    SolveOptions,
    cache_for,
    lasting,
    restored,
)
from lds_iter.nn.suited import default_auto
from lds_iter.solution import Solution

OF_TORCH = (*list(inspect.signature(torch.nn.RNNBase.__init__).parameters)[2:], "nonlinearity")
"""The names of the arguments of `torch.nn`'s layers, which do not spell them out themselves."""


class ParallelLayers(torch.nn.RNNBase):
    """What `RNN`, `GRU` and `LSTM` share: the layer of `torch.nn`, evaluated faster, or in parallel over time.

    By default a layer on a CPU takes its steps in compiled code, and torch's kernel serves where that cannot (no
    compiler) or would be late (a short LSTM); on an accelerator `Auto` finds out whether a solve or torch's kernel is
    faster. With a `method` that method solves every forward. Where a solve does not converge within its budget, the
    whole forward is that of `torch.nn`, with one `PerformanceWarning` per module; so it is, without a warning, for
    inputs that are not finite. Half precision is computed in float32 and cast to what torch returns.

    Gradients are exact and may be differentiated again. Torch's kernel answers while a call is recorded or transformed:
    tracing, scripting, exporting, `torch.fx`, `torch.func`, forward-mode derivatives, meta and fake tensors.

    With `mesh=mesh["time"]` the ranks of `torch.distributed` share the time steps: see `SolveOptions.mesh`.

    The constructor takes the arguments of the layer of `torch.nn`, and those of `SolveOptions` by name; each of these
    is an attribute too, and may be changed at any time.

    Args:
        arguments: those of the layer of `torch.nn`, by position.
        named_arguments: those of the layer of `torch.nn`, and `method`, `rtol`, `atol`, `window`, `max_iters`,
            `warm_start`, `compiler`, `mesh`; see `SolveOptions`.

    Attributes:
        options: the `SolveOptions`.
        last_plan: what computed the last forward, and why; None before the first. Not copied or pickled.
        last_solution: of the last forward, where it was solved, a `Solution` for each layer and direction, in the order
            of torch's weights, without a graph and in memory of its own; else empty. Not copied or pickled.

    Raises:
        TypeError: for arguments that neither torch nor `SolveOptions` knows.
        ValueError: for options that cannot work.
    """

    # Defaults on the class: `parallelize` turns a module of `torch.nn` into one of these without calling `__init__`.
    options: SolveOptions = SolveOptions()
    method, rtol, atol, window, max_iters, warm_start, compiler, mesh = (Option() for _ in OPTION_NAMES)
    last_solution: tuple[Solution, ...] = ()
    last_plan: Plan | None = None
    _auto: Auto | None = None
    _cache: CompileCache | None = None
    _warned: bool = False

    def __init__(self, *arguments: Any, **named_arguments: Any) -> None:
        check_names(type(self).__name__, named_arguments, (*OF_TORCH, *OPTION_NAMES))
        options = SolveOptions(**{name: named_arguments.pop(name) for name in OPTION_NAMES if name in named_arguments})
        super().__init__(*arguments, **named_arguments)
        self.options = options

    @untraced
    def forward(self, input: Any, hx: Any = None) -> Any:
        """As in `torch.nn`: returns the output and the final states."""
        alone = self.options.mesh is None
        if alone and self.options.method is None and torch_is_faster(self, input):
            if self.last_plan is not FASTER:
                self._remember(LayerOutcome(None, FASTER))
            return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]
        if traced_as_leaf(self, input):
            return as_leaf(self, input, hx)
        if alone and recorded(input, hx):
            return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]
        outcome = forward_pass(self, self.options, self._chooser, self._compiled(), input, hx)
        self._remember(outcome)
        if outcome.results is not None:
            return outcome.results
        return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]

    def _remember(self, outcome: LayerOutcome) -> None:
        """Keep the outcome of a forward, and warn once if a solve has failed."""
        self.last_solution, self.last_plan = outcome.solutions, outcome.plan
        if outcome.plan is not OVER_BUDGET or self._warned:
            return
        self._warned = True
        layer, backward = divmod(len(outcome.solutions) - 1, 2 if self.bidirectional else 1)
        where, name = f" in layer {layer}" + (", backward" if backward else ""), type(self).__name__
        instead = f"The result is that of torch.nn.{name}, step by step"
        warn_of_slowness(explain_fallback(name, where, outcome.solutions[-1], instead))

    def _chooser(self) -> Auto:
        """The strategy that chooses on an accelerator when no method is given; it learns from forward to forward."""
        self._auto = self._auto or default_auto(self)
        return self._auto

    def _compiled(self) -> CompileCache | None:
        """The compiled iterations of the present compiler."""
        self._cache = cache_for(self.options.compiler, self._cache)
        return self._cache

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """The layer of torch with the same parameters, which `torch.jit.script` compiles in place of this one."""
        made = object.__new__(next(kind for kind in type(self).__mro__ if kind.__module__.startswith("torch.nn")))
        made.__dict__.update({name: value for name, value in vars(self).items() if name not in OWN_STATE})
        return made

    def __getstate__(self) -> dict[str, Any]:
        return lasting(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(restored(state))


class RNN(ParallelLayers, torch.nn.RNN):
    """`torch.nn.RNN`, faster. All else is the same, and the options are those of `ParallelLayers`."""


class GRU(ParallelLayers, torch.nn.GRU):
    """`torch.nn.GRU`, faster. All else is the same, and the options are those of `ParallelLayers`."""


class LSTM(ParallelLayers, torch.nn.LSTM):
    """`torch.nn.LSTM`, faster. Same constructor, parameters, `state_dict`, inputs and outputs.

    The further arguments are those of `ParallelLayers`. The states of `last_solution` are pairs of each unit's h and c,
    `(T, B, 2 * hidden_size)`, h before the projection.
    """
