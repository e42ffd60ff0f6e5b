"""Swap every recurrent layer of a model for the one of `lds_iter.nn`, and back."""

from __future__ import annotations

from typing import Any, TypeVar

import torch

from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.spelling import check_names
from lds_iter.nn.layers import GRU, LSTM, RNN, ParallelLayers
from lds_iter.nn.options import OPTION_NAMES, OWN_STATE, SolveOptions

M = TypeVar("M", bound=torch.nn.Module)

_PARALLEL: dict[type[torch.nn.Module], type[ParallelLayers]] = {
    torch.nn.RNN: RNN,
    torch.nn.GRU: GRU,
    torch.nn.LSTM: LSTM,
}
_OF_TORCH: dict[type[torch.nn.Module], type[torch.nn.Module]] = {ours: theirs for theirs, ours in _PARALLEL.items()}


def parallelize(module: M, method: LDSApproximation | AbstractStrategy | None = None, **options: Any) -> M:
    """Swap every `torch.nn.RNN`, `GRU` and `LSTM` in a model for the layer of `lds_iter.nn`, in place.

    A layer changes its class and nothing else: it stays the same object with the same parameters, so optimizers, hooks
    and other references to it keep working. Subclasses of the three are left alone, since they may compute something
    else. `sequentialize` is the inverse.

    Args:
        module: the model, or a layer itself.
        method: for all layers; the default of each when None.
        options: the others of `SolveOptions`: `rtol`, `atol`, `window`, `max_iters`, `warm_start`, `compiler`,
            `mesh`.

    Returns:
        The same object.

    Raises:
        TypeError: when `module` is no module, or an option is unknown.
        ValueError: when there is no such layer.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GRU(4, 8))
        >>> type(li.nn.parallelize(model)[1])
        <class 'lds_iter.nn.layers.GRU'>
    """
    check_names("parallelize", options, OPTION_NAMES)
    wanted = SolveOptions(method, **options)
    _check_module(module)
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
        layer.options = wanted
    return module


def sequentialize(module: M) -> M:
    """Swap every layer of `lds_iter.nn` in a model for that of `torch.nn`, in place: the inverse of `parallelize`.

    For what looks at the class of a layer: quantization, exporters, scripting. A layer stays the same object with the
    same parameters, and forgets its options. A model without such layers is left as it is.

    Args:
        module: the model, or a layer itself.

    Returns:
        The same object.

    Raises:
        TypeError: when `module` is no module.

    Example:
        >>> model = li.nn.parallelize(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GRU(4, 8)))
        >>> type(li.nn.sequentialize(model)[1])
        <class 'torch.nn.modules.rnn.GRU'>
    """
    _check_module(module)
    for layer in module.modules():
        if type(layer) in _OF_TORCH:
            for name in OWN_STATE:
                layer.__dict__.pop(name, None)
            layer.__class__ = _OF_TORCH[type(layer)]
    return module


def _check_module(module: Any) -> None:
    if not isinstance(module, torch.nn.Module):
        name = module.__name__ if isinstance(module, type) else None
        hint = f" Make one first: {name}(...)." if name else ""
        raise TypeError(f"`module` must be a module, got {module!r}.{hint}")
