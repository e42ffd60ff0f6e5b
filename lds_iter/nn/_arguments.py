"""What the layers do at their boundary: budgets, defaults, initial states, and what a fallback says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lds_iter.auto import Auto
from lds_iter.compile.compiled import CompileCache
from lds_iter.kernels.cpu.build import function
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.newton import Newton
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.solution import Result, Solution

NARROW = 8
"""Up to this width the full Jacobian of an RNN or GRU is cheap enough for `Newton()`: at initialisation on a CPU it is
well ahead of quasi-Newton for an RNN and level for a GRU, and behind for both at twice the width."""

NARROW_COMPILED = 64
"""The same where compiled code multiplies by the Jacobian without forming it, for an LSTM too: its products with one
row after the other take as long as a second evaluation, and iterations are half or fewer. Beyond, the matrices leave
the first-level cache, and those products are what other threads wait for."""


def fixed_method(module: torch.nn.Module) -> LDSApproximation:
    """The one method that suits a fresh layer or cell best, as far as shape and device tell, for who wants no `Auto`.

    Args:
        module: a layer or cell of `torch.nn` or `li.nn` with a `hidden_size`.

    Returns:
        `Newton()` up to a hidden size of 64 on a CPU with compiled kernels; elsewhere, and with a projection,
        `BlockNewton(2)` for an LSTM, `Newton()` for an RNN or GRU up to a hidden size of 8. `QuasiNewton()` above, for
        an LSTM `BlockNewton(2)`.

    Example:
        >>> layer = li.nn.GRU(3, 256)
        >>> layer.method = li.nn.fixed_method(layer)
        >>> layer.method
        QuasiNewton(diagonal=ExactDiagonal())
    """
    lstm, width = isinstance(module, torch.nn.LSTM | torch.nn.LSTMCell), getattr(module, "hidden_size", None)
    if not isinstance(width, int):
        raise ValueError(f"`module` needs a `hidden_size`, which {type(module).__name__} has not. Type li.Newton().")
    if width <= (NARROW_COMPILED if _compiled(module) else 0 if lstm else NARROW):
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


def default_auto(module: object) -> Auto:
    """A strategy of a layer's own, which learns from one forward to the next."""
    return Auto()


def check_budget(window: Any, max_iters: Any, length: int) -> int:
    """The limit of updates for `length` steps: `max_iters` for each stretch of `window` steps (all, when None)."""
    for name, number in ("window", window), ("max_iters", max_iters):
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
        if not whole and not (name == "window" and number is None):
            raise ValueError(f"`{name}` must be a whole number, 1 or more, got {number!r}.")
    return max_iters if window is None else max_iters * -(-length // window)


def initial_states(module: torch.nn.RNNBase, input: Any, hx: Any) -> tuple[Tensor, ...] | None:
    """The initial h, and c for an LSTM, `(layers * directions, B, D)`; None for what torch shall answer itself.

    That is what is empty, and what is malformed, which its `forward` refuses in its own words.
    """
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    if not isinstance(x, Tensor) or x.numel() == 0 or (not packed and x.dim() not in (2, 3)):
        return None
    single = not packed and x.dim() == 2
    sizes = input.batch_sizes if packed else None
    shaped = x.unsqueeze(0 if module.batch_first else 1) if single else x
    states = _zeros(module, shaped, sizes) if hx is None else _given(module, x, hx, 2 if single else 3)
    if states is None:
        return None
    if single and hx is not None:
        states = tuple(state.unsqueeze(1) for state in states)
    hidden: Any = states if isinstance(module, torch.nn.LSTM) else states[0]
    module.check_forward_args(shaped, hidden, sizes)
    return states


def _zeros(module: torch.nn.RNNBase, x: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, ...]:
    batch = x.shape[0 if module.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
    lead = module.num_layers * (2 if module.bidirectional else 1)
    h = x.new_zeros(lead, batch, module.proj_size or module.hidden_size)
    return (h, x.new_zeros(lead, batch, module.hidden_size)) if isinstance(module, torch.nn.LSTM) else (h,)


def _given(module: torch.nn.RNNBase, x: Tensor, hx: Any, dims: int) -> tuple[Tensor, ...] | None:
    """The user's states; None when they are not tensors of the right number, dimensions and dtype."""
    lstm = isinstance(module, torch.nn.LSTM)
    if lstm and not (isinstance(hx, tuple | list) and len(hx) == 2):
        return None
    states: tuple[Any, ...] = tuple(hx) if lstm else (hx,)
    fitting = all(isinstance(h, Tensor) and h.dim() == dims and h.dtype == x.dtype for h in states)
    return states if fitting else None


def explain_fallback(
    module: torch.nn.RNNBase, method: LDSApproximation | AbstractStrategy, solutions: tuple[Solution, ...]
) -> str:
    """What fell back, and what to type."""
    name, last = type(module).__name__, solutions[-1]
    directions = 2 if module.bidirectional else 1
    layer, backward = divmod(len(solutions) - 1, directions)
    where = f"layer {layer}" + (", backward" if backward else "")
    return (
        f"`{name}` did not converge in {where}: {_worst(last)} after {int(last.iterations.max())} iterations of "
        f"{method}. The result is that of torch.nn.{name}, step by step, as it will be whenever this happens (shown "
        "once per module). In order of likelihood:\n"
        f"  - a trained network far from its guess: layer.method = li.Then(li.Jacobi(), {method}, 16), or a warm start "
        "(li.nn.WarmStart)\n"
        "  - long memory: layer.method = li.Damped(..., 0.05), a `window` of a few hundred steps, or a larger "
        "`max_iters`\n"
        f"  - dynamics that cannot be parallelized: keep torch.nn.{name} for this layer"
    )


def _worst(solution: Solution) -> str:
    failed = solution.result != Result.SUCCESS
    return f"{int(failed.sum())} of {failed.numel()} sequence(s), residual up to {float(solution.residual.max()):.2g},"


def check_compiler(
    compiler: Callable[..., Any] | None, method: LDSApproximation | AbstractStrategy | None
) -> Callable[..., Any] | None:
    """The compiler, beside a method that can be compiled."""
    if compiler is not None and not isinstance(method, LDSApproximation):
        raise ValueError(
            "`compiler` needs a `method` such as li.QuasiNewton(): `Auto`, the default, measures what is worth its "
            "time, and runs uncompiled."
        )
    return compiler


def code_of(compiler: Callable[..., Any] | None, known: CompileCache | None) -> CompileCache | None:
    """What a layer compiles its solves into, or has already; None where it does not."""
    if compiler is None:
        return None
    return known if known is not None and known.compiler is compiler else CompileCache(compiler)


def without_what_was_found(state: dict[str, Any]) -> dict[str, Any]:
    """What is copied and pickled of a layer: not its last solution, and nothing compiled."""
    return {name: value for name, value in state.items() if name not in ("last_solution", "_code")}
