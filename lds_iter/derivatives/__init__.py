"""Derivatives of `f` along a guess: by torch.func, by reverse mode, or closed forms of its own."""

from lds_iter.derivatives.linearization import AbstractDerivatives as AbstractDerivatives
from lds_iter.derivatives.linearization import ElementwiseDerivatives as ElementwiseDerivatives
from lds_iter.derivatives.linearization import FunctionDerivatives as FunctionDerivatives
from lds_iter.derivatives.linearization import Linearization as Linearization
