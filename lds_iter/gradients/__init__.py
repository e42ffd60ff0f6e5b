"""How gradients reach the parameters of `f`, `s0` and `inputs` from the states of a solution."""

from lds_iter.gradients.adjoints import AbstractAdjoint as AbstractAdjoint
from lds_iter.gradients.implicit import Implicit as Implicit
from lds_iter.gradients.unroll import Unroll as Unroll
