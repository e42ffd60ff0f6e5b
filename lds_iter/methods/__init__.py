"""The methods: one small object each, that supplies an LDS approximation to the loop."""

from lds_iter.methods.base import LDSApproximation as LDSApproximation
from lds_iter.methods.base import TransitionApproximation as TransitionApproximation
from lds_iter.methods.block_newton import BlockNewton as BlockNewton
from lds_iter.methods.chord import Chord as Chord
from lds_iter.methods.compose import Clipped as Clipped
from lds_iter.methods.compose import Damped as Damped
from lds_iter.methods.compose import Then as Then
from lds_iter.methods.compose import Where as Where
from lds_iter.methods.jacobi import Jacobi as Jacobi
from lds_iter.methods.low_precision import LowPrecision as LowPrecision
from lds_iter.methods.newton import Newton as Newton
from lds_iter.methods.picard import Picard as Picard
from lds_iter.methods.quasi_newton import AbstractDiagonal as AbstractDiagonal
from lds_iter.methods.quasi_newton import ExactDiagonal as ExactDiagonal
from lds_iter.methods.quasi_newton import Hutchinson as Hutchinson
from lds_iter.methods.quasi_newton import QuasiNewton as QuasiNewton
from lds_iter.methods.rotated import Rotated as Rotated
from lds_iter.methods.switch import AbstractRule as AbstractRule
from lds_iter.methods.switch import Below as Below
from lds_iter.methods.switch import Stalled as Stalled
from lds_iter.methods.switch import Switch as Switch
from lds_iter.methods.trust_region import Trust as Trust
from lds_iter.methods.trust_region import TrustRegion as TrustRegion
