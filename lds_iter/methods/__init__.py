"""The methods: one small object each, that supplies an LDS approximation to the loop."""

from lds_iter.methods.base import LDSApproximation as LDSApproximation
from lds_iter.methods.base import TransitionApproximation as TransitionApproximation
from lds_iter.methods.block_newton import BlockNewton as BlockNewton
from lds_iter.methods.compose import Clipped as Clipped
from lds_iter.methods.compose import Damped as Damped
from lds_iter.methods.compose import Then as Then
from lds_iter.methods.jacobi import Jacobi as Jacobi
from lds_iter.methods.levenberg_marquardt import Filter as Filter
from lds_iter.methods.levenberg_marquardt import KalmanForm as KalmanForm
from lds_iter.methods.levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from lds_iter.methods.levenberg_marquardt import Smoother as Smoother
from lds_iter.methods.newton import Newton as Newton
from lds_iter.methods.picard import Picard as Picard
from lds_iter.methods.quasi_newton import AbstractDiagonal as AbstractDiagonal
from lds_iter.methods.quasi_newton import ExactDiagonal as ExactDiagonal
from lds_iter.methods.quasi_newton import Hutchinson as Hutchinson
from lds_iter.methods.quasi_newton import QuasiNewton as QuasiNewton
