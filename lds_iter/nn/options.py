"""How a layer solves: its options, as attributes of the layer too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from lds_iter.checks import checked_method
from lds_iter.compile.compiled import CompileCache
from lds_iter.distributed.meeting import group_of
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import Composable
from lds_iter.nn.warm_start import WarmStart


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
        mesh: a one-dimensional `DeviceMesh`, such as `mesh["time"]`, or a `ProcessGroup`, whose ranks share the time
            steps. Each rank gives its consecutive time steps and gets their outputs; the initial state is that of the
            first rank (for the backward direction, of the last), and the final state comes to every rank. Without a
            `method` that of `shared_method` solves, and a solve that does not converge raises `SolveError`. A
            `ProcessGroup` keeps the layer from being copied and pickled, a `DeviceMesh` does not.

    Raises:
        TypeError: when `method`, `warm_start` or `mesh` is something else, and for `Auto` with a `mesh`.
        ValueError: for a `window` or `max_iters` that is no whole number, and for a `compiler` without a method.
    """

    method: LDSApproximation | AbstractStrategy | None = None
    rtol: float | None = None
    atol: float | None = None
    window: int | None = None
    max_iters: int = 100
    warm_start: WarmStart | None = None
    compiler: Callable[..., Any] | None = None
    mesh: Any = None

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
        self._check_mesh()

    def _check_mesh(self) -> None:
        """Check that there is a mesh of one dimension, and nothing that cannot work with it."""
        if self.mesh is None:
            return
        group_of(self.mesh)
        if isinstance(self.method, AbstractStrategy):
            raise TypeError(
                f"`mesh` needs one method for all ranks, got {type(self.method).__name__}, which chooses by the clock "
                "of each. Type method=li.QuasiNewton(), or leave `method` out."
            )
        if self.compiler is not None:
            raise ValueError(
                "`mesh` runs iterations that talk to other ranks, which no compiled graph holds. Leave `compiler` out."
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
