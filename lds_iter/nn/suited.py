"""The method that suits a layer or cell, as far as its shape, its device and a mesh tell."""

from __future__ import annotations

import torch

from lds_iter.auto import Auto
from lds_iter.kernels.cpu.build import function
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.newton import Newton
from lds_iter.methods.picard import Picard
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.methods.trust_region import TrustRegion

NARROWEST_UNITS = 8
"""Up to this hidden size the full Jacobian of an RNN or GRU is cheap enough for `Newton()`: at initialisation on a CPU
it is well ahead of quasi-Newton for an RNN and level for a GRU, and behind for both at twice the size."""

NARROW_COMPILED_UNITS = 64
"""The same where compiled code multiplies by the Jacobian without forming it, for an LSTM too: its products with one
row after the other take as long as a second evaluation, and iterations are half or fewer. Beyond, the matrices leave
the first-level cache, and those products are what other threads wait for."""


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


def shared_method(module: torch.nn.Module) -> LDSApproximation:
    """The method of a layer or cell whose time steps the ranks of a mesh share, when none is given.

    Compiled steps and `Auto` cannot serve there. Beside arithmetic, messages count: D^2 numbers a rank and iteration
    for the full Jacobian, 2 D for a diagonal.

    Args:
        module: a layer or cell of `torch.nn` or `li.nn`, or a `Recurrent`.

    Example:
        >>> li.nn.shared_method(li.nn.LSTM(3, 256))
        BlockNewton(2)
    """
    cell = getattr(module, "cell", module)
    width = getattr(cell, "hidden_size", 0)
    if not isinstance(cell, torch.nn.RNNBase | torch.nn.RNNCellBase) or width <= NARROWEST_UNITS:
        return Newton()
    return BlockNewton(2) if isinstance(cell, torch.nn.LSTM | torch.nn.LSTMCell) else QuasiNewton()


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
