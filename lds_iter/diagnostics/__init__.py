"""Will parallel evaluation pay? Exponents, conditioning, rates and predicted counts, before a solve or after."""

from lds_iter.diagnostics._along import linearizations as linearizations
from lds_iter.diagnostics.condition import Conditioning as Conditioning
from lds_iter.diagnostics.condition import conditioning as conditioning
from lds_iter.diagnostics.condition import mu_bounds as mu_bounds
from lds_iter.diagnostics.evaluation import AbstractEvaluation as AbstractEvaluation
from lds_iter.diagnostics.evaluation import ByScan as ByScan
from lds_iter.diagnostics.evaluation import StepByStep as StepByStep
from lds_iter.diagnostics.exponents import Lyapunov as Lyapunov
from lds_iter.diagnostics.exponents import lyapunov as lyapunov
from lds_iter.diagnostics.exponents import lyapunov_of as lyapunov_of
from lds_iter.diagnostics.growth import Forecast as Forecast
from lds_iter.diagnostics.growth import GrowthLaw as GrowthLaw
from lds_iter.diagnostics.growth import forecast as forecast
from lds_iter.diagnostics.pictures import comparison_picture as comparison_picture
from lds_iter.diagnostics.pictures import convergence_map as convergence_map
from lds_iter.diagnostics.pictures import report_picture as report_picture
from lds_iter.diagnostics.prediction import Prediction as Prediction
from lds_iter.diagnostics.prediction import counts_by_length as counts_by_length
from lds_iter.diagnostics.prediction import predict_iterations as predict_iterations
from lds_iter.diagnostics.products import product as product
from lds_iter.diagnostics.rates import Contraction as Contraction
from lds_iter.diagnostics.rates import contraction as contraction
from lds_iter.diagnostics.reporting import Report as Report
from lds_iter.diagnostics.reporting import report as report
