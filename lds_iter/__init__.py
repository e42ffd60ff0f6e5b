"""Sequential recurrences, evaluated in parallel over time by fixed-point iteration."""

import importlib
import typing

from lds_iter import auto as auto
from lds_iter import kernels as kernels
from lds_iter import nn as nn
from lds_iter.auto import Auto as Auto
from lds_iter.by_hand import Iterate as Iterate
from lds_iter.by_hand import finish as finish
from lds_iter.by_hand import iterate as iterate
from lds_iter.by_hand import start as start
from lds_iter.carries.scan import scan as scan
from lds_iter.carries.scan import scan_recurrence as scan_recurrence
from lds_iter.compile.compiled import Compiled as Compiled
from lds_iter.compile.compiled import cuda_graphs as cuda_graphs
from lds_iter.derivatives.along import linearization as linearization
from lds_iter.derivatives.autodiff import Autodiff as Autodiff
from lds_iter.derivatives.autodiff import FunctionDerivatives as FunctionDerivatives
from lds_iter.derivatives.closed_form import AbstractDerivatives as AbstractDerivatives
from lds_iter.derivatives.closed_form import ElementwiseDerivatives as ElementwiseDerivatives
from lds_iter.derivatives.linearization import Linearization as Linearization
from lds_iter.derivatives.structured import StructuredDerivatives as StructuredDerivatives
from lds_iter.derivatives.structured import blockwise as blockwise
from lds_iter.errors import PerformanceWarning as PerformanceWarning
from lds_iter.errors import RankError as RankError
from lds_iter.errors import SolveError as SolveError
from lds_iter.gradients.adjoints import AbstractAdjoint as AbstractAdjoint
from lds_iter.gradients.implicit import Implicit as Implicit
from lds_iter.gradients.unroll import Unroll as Unroll
from lds_iter.guesses import Coarse as Coarse
from lds_iter.guesses import repeat_initial as repeat_initial
from lds_iter.guesses import step_from_zero as step_from_zero
from lds_iter.linear.linear_scan import linear_scan as linear_scan
from lds_iter.linear.linear_scan import reference_scan as reference_scan
from lds_iter.linear.low_rank import LowRank as LowRank
from lds_iter.linear.registry import register_scan as register_scan
from lds_iter.linear.transitions import AbstractTransition as AbstractTransition
from lds_iter.linear.transitions import BlockDiagonal as BlockDiagonal
from lds_iter.linear.transitions import Dense as Dense
from lds_iter.linear.transitions import Diagonal as Diagonal
from lds_iter.linear.transitions import Identity as Identity
from lds_iter.linear.transitions import ScaledIdentity as ScaledIdentity
from lds_iter.linear.transitions import Zero as Zero
from lds_iter.methods import AbstractDiagonal as AbstractDiagonal
from lds_iter.methods import AbstractRule as AbstractRule
from lds_iter.methods import After as After
from lds_iter.methods import Below as Below
from lds_iter.methods import BlockNewton as BlockNewton
from lds_iter.methods import Chord as Chord
from lds_iter.methods import Clipped as Clipped
from lds_iter.methods import Dampable as Dampable
from lds_iter.methods import Damped as Damped
from lds_iter.methods import Elapsed as Elapsed
from lds_iter.methods import ExactDiagonal as ExactDiagonal
from lds_iter.methods import Filter as Filter
from lds_iter.methods import Hutchinson as Hutchinson
from lds_iter.methods import Jacobi as Jacobi
from lds_iter.methods import KalmanForm as KalmanForm
from lds_iter.methods import LDSApproximation as LDSApproximation
from lds_iter.methods import LevenbergMarquardt as LevenbergMarquardt
from lds_iter.methods import LowPrecision as LowPrecision
from lds_iter.methods import Newton as Newton
from lds_iter.methods import Picard as Picard
from lds_iter.methods import QuasiNewton as QuasiNewton
from lds_iter.methods import Rotated as Rotated
from lds_iter.methods import SmallUpdate as SmallUpdate
from lds_iter.methods import Smoother as Smoother
from lds_iter.methods import Stalled as Stalled
from lds_iter.methods import StatefulTransition as StatefulTransition
from lds_iter.methods import Switch as Switch
from lds_iter.methods import Then as Then
from lds_iter.methods import TransitionApproximation as TransitionApproximation
from lds_iter.methods import Trust as Trust
from lds_iter.methods import TrustRegion as TrustRegion
from lds_iter.methods import Where as Where
from lds_iter.plain_loop import sequential as sequential
from lds_iter.recurrence import fold as fold
from lds_iter.recurrence import ravel as ravel
from lds_iter.solution import AdjointCounts as AdjointCounts
from lds_iter.solution import Decision as Decision
from lds_iter.solution import History as History
from lds_iter.solution import Progress as Progress
from lds_iter.solution import Result as Result
from lds_iter.solution import Solution as Solution
from lds_iter.solve import solve as solve

if typing.TYPE_CHECKING:
    from lds_iter import depth as depth
    from lds_iter import diagnostics as diagnostics
    from lds_iter import diffusion as diffusion
    from lds_iter import mcmc as mcmc
    from lds_iter import ode as ode
    from lds_iter import testing as testing
    from lds_iter.diagnostics.comparing import Compared as Compared
    from lds_iter.diagnostics.comparing import Comparison as Comparison
    from lds_iter.diagnostics.comparing import compare as compare
    from lds_iter.testing.verifying import Verification as Verification
    from lds_iter.testing.verifying import verify as verify

__version__ = "0.2.0"

_ROOMS = ("depth", "diagnostics", "diffusion", "mcmc", "ode", "testing")
_NAMES = {
    "Compared": "diagnostics.comparing",
    "Comparison": "diagnostics.comparing",
    "compare": "diagnostics.comparing",
    "Verification": "testing.verifying",
    "verify": "testing.verifying",
}
"""What is loaded when it is asked for: a third of the time of an import, which most programs do without."""


def __getattr__(name: str) -> typing.Any:
    if name in _ROOMS:
        return importlib.import_module(f"lds_iter.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"lds_iter.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_NAMES})
