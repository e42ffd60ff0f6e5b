"""Which scan serves which structure on which kind of device."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds_iter.linear.transitions import AbstractTransition

Scan = Callable[[Any, Tensor, Tensor | None], None]
StepwiseScan = Callable[[Any, Tensor, Tensor | None], bool]
Operator = Callable[[Any, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class ScanKernel:
    """How one structure is scanned on one kind of device; None where the reference serves.

    Attributes:
        forward: `x_t = A_t x_{t-1} + b_t`, in place.
        reverse: `x_t = A_t x_{t+1} + b_t`, in place.
        stepwise: like `forward`, one time step after the other, so that it rounds alike wherever it begins. Returns
            False, and leaves `x` as it is, for tensors that it does not serve.
    """

    forward: Scan | None = None
    reverse: Scan | None = None
    stepwise: StepwiseScan | None = None


_KERNELS: dict[tuple[type[AbstractTransition], str | None], ScanKernel] = {}
_OPERATORS: dict[type[AbstractTransition], Operator] = {}
_NOTHING = ScanKernel()


def register_scan(structure: type[AbstractTransition], device_type: str | None = None) -> Callable[[Scan], Scan]:
    """Decorator: use this function to scan `structure` on devices of `device_type` (all devices when None).

    The function takes `(transition, x, initial)`: on entry `x`, of shape `(n, *batch, D)`, holds `b`, and it leaves the
    solution there, in place. `initial` has shape `(*batch, D)` or is None. The transition must stay as it is. `solve`
    uses it wherever a method chooses this structure, also within wrappers. Mixed with another structure (`Where`, or
    `Then` in a window) it becomes dense, and a `PerformanceWarning` says so.

    Args:
        structure: the class of the transitions.
        device_type: such as "cpu" or "cuda".

    Returns:
        The decorator.

    Raises:
        TypeError: when `structure` is no class of transitions.
        ValueError: for an unknown kind of device, or a second scan for the same structure and device.
    """
    return _decorator(structure, device_type, "forward")


def register_reverse_scan(structure: type[AbstractTransition], device_type: str) -> Callable[[Scan], Scan]:
    """Decorator like `register_scan`, for `x_t = A_t x_{t+1} + b_t`, with `initial` after the last row.

    Without one, a reversed scan is a scan of flipped copies.

    Args:
        structure: the class of the transitions.
        device_type: such as "cpu" or "cuda".

    Returns:
        The decorator.

    Raises:
        TypeError, ValueError: as `register_scan`.
    """
    return _decorator(structure, device_type, "reverse")


def register_operator(structure: type[AbstractTransition], operator: Operator) -> None:
    """In compiled code, scan `structure` by an operator of `torch.library`; other structures are traced for each T.

    Args:
        structure: which transitions.
        operator: differentiable, `(transition, b, initial) -> x`; see `linear_scan`. `initial` may be None.

    Raises:
        TypeError: when `structure` is no class of transitions.
        ValueError: for a second operator of the same structure.
    """
    _check_structure(structure)
    if structure in _OPERATORS:
        raise ValueError(f"{structure.__name__} has an operator already: {_named(_OPERATORS[structure])}.")
    _OPERATORS[structure] = operator


def register_stepwise_scan(
    structure: type[AbstractTransition], device_type: str
) -> Callable[[StepwiseScan], StepwiseScan]:
    """Decorator like `register_scan`, for a scan that goes through time once and says whether it did.

    Such a scan rounds alike wherever it begins, so the loop begins it at the frontier.

    Args:
        structure: the class of the transitions.
        device_type: such as "cpu".

    Returns:
        The decorator.

    Raises:
        TypeError, ValueError: as `register_scan`.
    """
    return _decorator(structure, device_type, "stepwise")


def kernel_of(structure: type[AbstractTransition], device_type: str) -> ScanKernel:
    """What is registered for a structure on a kind of device, or for it on all devices, or nothing."""
    everywhere = _KERNELS.get((structure, None), _NOTHING)
    here = _KERNELS.get((structure, device_type))
    if here is None:
        return everywhere
    return here if here.forward is not None else replace(here, forward=everywhere.forward)


def operator_of(structure: type[AbstractTransition]) -> Operator | None:
    """The operator of a structure, for compiled code."""
    return _OPERATORS.get(structure)


def _decorator(structure: type[AbstractTransition], device_type: str | None, direction: str) -> Callable[[Any], Any]:
    _check_structure(structure)
    _check_device(device_type)
    key = structure, device_type

    def register(scan: Any) -> Any:
        kernel = _KERNELS.get(key, _NOTHING)
        before = getattr(kernel, direction)
        if before is not None:
            where = "all devices" if device_type is None else repr(device_type)
            raise ValueError(
                f"{structure.__name__} has a {direction} scan for {where} already: {_named(before)}. Register it for "
                "another kind of device, or derive a structure of your own."
            )
        _KERNELS[key] = replace(kernel, **{direction: scan})
        return scan

    return register


def _check_structure(structure: Any) -> None:
    if not isinstance(structure, type) or not issubclass(structure, AbstractTransition):
        raise TypeError(f"`structure` must be a class of transitions such as li.Diagonal, got {structure!r}.")


def _check_device(device_type: Any) -> None:
    known = ("cpu", "cuda", "mps", "xpu", "hpu", "meta", "privateuseone", torch._C._get_privateuse1_backend_name())
    if device_type is not None and device_type not in known:
        near = difflib.get_close_matches(
            str(device_type).partition(":")[0].replace("gpu", "cuda"), known, n=1, cutoff=0.5
        )
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`device_type` must be a kind of device such as 'cpu' or 'cuda', got {device_type!r}.{hint}")


def _named(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"
