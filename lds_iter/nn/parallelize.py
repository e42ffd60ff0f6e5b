"""Swap every recurrent layer of a model for the one that is solved in parallel over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.nn.layers import GRU, LSTM, RNN, ParallelLayers
from lds_iter.nn.warm_start import WarmStart

M = TypeVar("M", bound=torch.nn.Module)

_PARALLEL: dict[type[torch.nn.Module], type[ParallelLayers]] = {
    torch.nn.RNN: RNN,
    torch.nn.GRU: GRU,
    torch.nn.LSTM: LSTM,
}


def parallelize(
    module: M,
    method: LDSApproximation | AbstractStrategy | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    window: int | None = None,
    max_iters: int = 100,
    warm_start: WarmStart | None = None,
    compiler: Callable[..., Any] | None = None,
) -> M:
    """Swap every `torch.nn.RNN`, `GRU` and `LSTM` in a model for the layer of `lds_iter.nn`, in place.

    A layer changes its class and nothing else: it stays the same object with the same parameters, so optimizers, hooks
    and other references to it keep working. Subclasses of the three are left alone, since they may compute something
    else.

    Args:
        module: the model, or a layer itself.
        method: for all layers; an `Auto` of each layer's own when None.
        rtol: see `solve`.
        atol: see `solve`.
        window: see `solve`.
        max_iters: iterations for every stretch of `window` time steps before a layer falls back to torch's kernel.
        warm_start: start from the states that each sample had last time.
        compiler: runs the solves compiled, as `Compiled` does with the same argument; each layer has code of its own.

    Returns:
        The same object.

    Raises:
        ValueError: when there is no such layer.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GRU(4, 8))
        >>> type(li.nn.parallelize(model)[1])
        <class 'lds_iter.nn.layers.GRU'>
    """
    layers = [layer for layer in module.modules() if type(layer) in _PARALLEL or isinstance(layer, ParallelLayers)]
    if not layers:
        raise ValueError(
            f"`module` ({type(module).__name__}) contains no torch.nn.RNN, GRU or LSTM. For a cell of another kind "
            "use li.nn.Recurrent(cell)."
        )
    for layer in layers:
        if not isinstance(layer, ParallelLayers):
            layer.__class__ = _PARALLEL[type(layer)]
        assert isinstance(layer, ParallelLayers)
        layer.configure(
            method=method,
            rtol=rtol,
            atol=atol,
            window=window,
            max_iters=max_iters,
            warm_start=warm_start,
            compiler=compiler,
        )
    return module
