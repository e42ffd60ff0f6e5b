"""Derivatives of `f` along a guess: by forward mode, by reverse mode, or closed forms of its own."""

from lds_iter.derivatives.autodiff import Autodiff as Autodiff
from lds_iter.derivatives.autodiff import FunctionDerivatives as FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives as AbstractDerivatives
from lds_iter.derivatives.closed_form import ElementwiseDerivatives as ElementwiseDerivatives
from lds_iter.derivatives.linearization import Linearization as Linearization
from lds_iter.derivatives.structured import StructuredDerivatives as StructuredDerivatives
from lds_iter.derivatives.structured import blockwise as blockwise
