"""`f` and its derivatives at some states: the recurrence's own where it offers them, else by autodiff."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lds_iter.derivatives.autodiff import FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.derivatives.refusals import refusals_of
from lds_iter.recurrence import Function, check_value, own_linearize


def linearize(f: Function, prev: Tensor, inputs: Any) -> AbstractDerivatives:
    """`f` and its derivatives at `prev`: the recurrence's own where it offers them, else by `torch.func`."""
    own = own_linearize(f)
    if own is None:
        return FunctionDerivatives(f, prev, inputs, refusals_of(f))
    derivatives = own(prev, inputs)
    check_value(getattr(derivatives, "value", derivatives), prev, "`f.linearize(s, u).value`")
    return derivatives
