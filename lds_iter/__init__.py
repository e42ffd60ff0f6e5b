"""Sequential recurrences, evaluated in parallel over time by fixed-point iteration."""

from lds_iter import diagnostics as diagnostics
from lds_iter import nn as nn
from lds_iter.adjoint import AbstractAdjoint as AbstractAdjoint
from lds_iter.adjoint import Implicit as Implicit
from lds_iter.adjoint import Unroll as Unroll
from lds_iter.guesses import repeat_initial as repeat_initial
from lds_iter.guesses import step_from_zero as step_from_zero
from lds_iter.linearization import AbstractDerivatives as AbstractDerivatives
from lds_iter.linearization import ElementwiseDerivatives as ElementwiseDerivatives
from lds_iter.linearization import FunctionDerivatives as FunctionDerivatives
from lds_iter.linearization import Linearization as Linearization
from lds_iter.methods import AbstractDiagonal as AbstractDiagonal
from lds_iter.methods import BlockNewton as BlockNewton
from lds_iter.methods import Clipped as Clipped
from lds_iter.methods import Damped as Damped
from lds_iter.methods import ExactDiagonal as ExactDiagonal
from lds_iter.methods import Hutchinson as Hutchinson
from lds_iter.methods import Jacobi as Jacobi
from lds_iter.methods import LDSApproximation as LDSApproximation
from lds_iter.methods import Newton as Newton
from lds_iter.methods import Picard as Picard
from lds_iter.methods import QuasiNewton as QuasiNewton
from lds_iter.methods import Then as Then
from lds_iter.methods import TransitionApproximation as TransitionApproximation
from lds_iter.scan import linear_scan as linear_scan
from lds_iter.scan import reference_scan as reference_scan
from lds_iter.scan import register_scan as register_scan
from lds_iter.solution import History as History
from lds_iter.solution import Progress as Progress
from lds_iter.solution import Result as Result
from lds_iter.solution import Solution as Solution
from lds_iter.solution import SolveError as SolveError
from lds_iter.solve import sequential as sequential
from lds_iter.solve import solve as solve
from lds_iter.states import fold as fold
from lds_iter.states import ravel as ravel
from lds_iter.transitions import AbstractTransition as AbstractTransition
from lds_iter.transitions import BlockDiagonal as BlockDiagonal
from lds_iter.transitions import Dense as Dense
from lds_iter.transitions import Diagonal as Diagonal
from lds_iter.transitions import Identity as Identity
from lds_iter.transitions import ScaledIdentity as ScaledIdentity
from lds_iter.transitions import Zero as Zero
from lds_iter.warnings import PerformanceWarning as PerformanceWarning

__version__ = "0.1.0"
