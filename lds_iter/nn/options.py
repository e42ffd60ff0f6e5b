"""How a layer solves: its options, the method that suits its shape, and the words of a fallback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from lds_iter.auto import Auto
from lds_iter.checks import checked_method
from lds_iter.compile.compiled import CompileCache
from lds_iter.kernels.cpu.build import function
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.spelling import Composable
from lds_iter.methods.trust_region import TrustRegion
from lds_iter.nn.warm_start import WarmStart
from lds_iter.solution import Result, Solution

NARROWEST_UNITS = 8
"""Up to this hidden size the full Jacobian of an RNN or GRU is cheap enough for `Newton()`: at initialisation on a CPU
it is well ahead of quasi-Newton for an RNN and level for a GRU, and behind for both at twice the size."""

NARROW_COMPILED_UNITS = 64
"""The same where compiled code multiplies by the Jacobian without forming it, for an LSTM too: its products with one
row after the other take as long as a second evaluation, and iterations are half or fewer. Beyond, the matrices leave
the first-level cache, and those products are what other threads wait for."""


@dataclass(frozen=True)
class SolveOptions(Composable):
    """How a layer solves, where it does.

    Attributes:
        method: of the solves, or `Auto(...)`; None for the layer's default.
        rtol: see `solve`.
        atol: see `solve`.
        window: see `solve`.
        max_iters: the budget: iterations for every stretch of `window` time steps (all of them, without a window)
            before the layer falls back. `Auto` needs none.
        warm_start: start from the states that each sample had last time.
        compiler: runs the solves compiled, as `Compiled` does with such an argument: `torch.compile`. Needs a `method`.

    Raises:
        TypeError: when `method` or `warm_start` is something else.
        ValueError: for a `window` or `max_iters` that is no whole number, and for a `compiler` without a method.
    """

    method: LDSApproximation | AbstractStrategy | None = None
    rtol: float | None = None
    atol: float | None = None
    window: int | None = None
    max_iters: int = 100
    warm_start: WarmStart | None = None
    compiler: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            checked_method(self.method)
        for name, number in ("window", self.window), ("max_iters", self.max_iters):
            whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
            if not whole and not (name == "window" and number is None):
                raise ValueError(f"`{name}` must be a whole number, 1 or more, got {number!r}.")
        for name, value in ("rtol", self.rtol), ("atol", self.atol):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < float("inf")):
                raise ValueError(f"`{name}` must be a finite number, 0 or more, got {value!r}.")
        if self.warm_start is not None and not isinstance(self.warm_start, WarmStart):
            raise TypeError(f"`warm_start` must be a memory, got {self.warm_start!r}. Type li.nn.WarmStart().")
        if self.compiler is not None and not isinstance(self.method, LDSApproximation):
            raise ValueError(
                "`compiler` needs a `method` such as li.QuasiNewton(): the default runs compiled code already, and "
                "`Auto` measures what is worth its time, uncompiled."
            )

    def limit(self, length: int, method: LDSApproximation | AbstractStrategy) -> int | None:
        """The updates that so many time steps may take; None where `Auto` knows when to go step by step."""
        if isinstance(method, AbstractStrategy):
            return None
        return self.max_iters if self.window is None else self.max_iters * -(-length // self.window)


OPTION_NAMES = tuple(field.name for field in fields(SolveOptions))


FOUND_WHILE_RUNNING = ("last_solution", "last_plan", "_auto", "_cache", "_refusals")
"""The attributes that a layer sets while it runs, which are not copied or pickled with it."""


OWN_STATE = (*FOUND_WHILE_RUNNING, "options", "_warned")
"""The attributes that a layer of torch has not."""


class Option:
    """An attribute of a layer that is a field of its `options`: read there, and checked when it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, kind: type) -> Any:
        return self if layer is None else getattr(layer.options, self._name)

    def __set__(self, layer: Any, value: Any) -> None:
        layer.options = replace(layer.options, **{self._name: value})


def cache_for(compiler: Callable[..., Any] | None, known: CompileCache | None) -> CompileCache | None:
    """What a compiler has compiled, or will; None without one."""
    if compiler is None:
        return None
    return known if known is not None and known.compiler is compiler else CompileCache(compiler)


def lasting(state: dict[str, Any]) -> dict[str, Any]:
    """What of the state of a layer is copied and pickled."""
    return {name: value for name, value in state.items() if name not in FOUND_WHILE_RUNNING}


def restored(state: dict[str, Any]) -> dict[str, Any]:
    """The state of an unpickled layer; one of a version without `options` has them one by one."""
    single = {name: state.pop(name) for name in OPTION_NAMES if name in state}
    return {"options": SolveOptions(**single), **state} if single else state


def fixed_method(module: torch.nn.Module) -> LDSApproximation:
    """The one method that suits a fresh layer or cell best, as far as shape and device tell.

    Args:
        module: a layer or cell of `torch.nn` or `li.nn` with a `hidden_size`.

    Returns:
        `Newton()` up to a hidden size of 64 on a CPU with compiled kernels; elsewhere, and with a projection,
        `BlockNewton(2)` for an LSTM, `Newton()` for an RNN or GRU up to a hidden size of 8. `QuasiNewton()` above, for
        an LSTM `BlockNewton(2)`.

    Raises:
        ValueError: when `module` has no `hidden_size`.

    Example:
        >>> layer = li.nn.GRU(3, 256)
        >>> layer.method = li.nn.fixed_method(layer)
        >>> layer.method
        QuasiNewton()
    """
    lstm, width = isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell), getattr(module, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(f"`module` needs a `hidden_size`, which {type(module).__name__} has not. Type li.Newton().")
    if width <= (NARROW_COMPILED_UNITS if _compiled(module) else 0 if lstm else NARROWEST_UNITS):
        return Newton()
    return BlockNewton(2) if lstm else QuasiNewton()


def _compiled(module: torch.nn.Module) -> bool:
    """Whether compiled kernels serve the products with its Jacobian."""
    on_host = all(parameter.device.type == "cpu" for parameter in module.parameters())
    return (
        on_host
        and not getattr(module, "proj_size", 0)
        and function("scan", "diagonal_scan", torch.float32, 8) is not None
    )


FOR_PAIRS = Newton(), BlockNewton(2), Picard(), TrustRegion(Newton())
"""What `Auto` tries for an LSTM, whose state is a pair of numbers for each unit, in this order."""


def default_auto(module: object) -> Auto:
    """A strategy of a layer's own, which learns from one forward to the next."""
    return Auto(FOR_PAIRS) if isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell) else Auto()


def explain_fallback(who: str, where: str, solution: Solution, instead: str) -> str:
    """What fell back, and what to type.

    Args:
        who: the layer.
        where: which part of it.
        solution: the one that failed.
        instead: what was computed in its place.
    """
    failed = solution.result != Result.SUCCESS
    return (
        f"`{who}` did not converge{where}: {int(failed.sum())} of {failed.numel()} sequence(s), residual up to "
        f"{float(solution.residual.max()):.2g}, after {int(solution.iterations.max())} iterations. {instead}, as it "
        "will be whenever this happens (shown once per module). In order of likelihood:\n"
        "  - a trained network far from its guess: type layer.method = li.TrustRegion(li.Newton())\n"
        "  - the same, with states too wide for a Jacobian: "
        "layer.method = li.Then(li.Jacobi(), li.QuasiNewton(), 16)\n"
        "  - long memory: layer.window = 200, or layer.max_iters = 1000\n"
        "  - dynamics that cannot be parallelized: layer.method = None, the default"
    )
