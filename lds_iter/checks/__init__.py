"""Checks before any compute: of arguments, and of the contract of `f` by a few calls of it."""

from lds_iter.checks.arguments import check_adjoint as check_adjoint
from lds_iter.checks.arguments import check_callable as check_callable
from lds_iter.checks.arguments import check_flags as check_flags
from lds_iter.checks.arguments import check_guess as check_guess
from lds_iter.checks.arguments import check_inputs as check_inputs
from lds_iter.checks.arguments import check_layout as check_layout
from lds_iter.checks.arguments import check_numbers as check_numbers
from lds_iter.checks.arguments import check_state as check_state
from lds_iter.checks.arguments import check_tolerance as check_tolerance
from lds_iter.checks.arguments import checked_method as checked_method
from lds_iter.checks.probes import check_ends as check_ends
from lds_iter.checks.probes import check_f as check_f
from lds_iter.checks.probes import check_transforms as check_transforms
from lds_iter.checks.probes import last_inputs as last_inputs
from lds_iter.checks.sharing import check_shared_arguments as check_shared_arguments
from lds_iter.checks.solving import Arguments as Arguments
from lds_iter.checks.solving import Options as Options
from lds_iter.checks.solving import check_arguments as check_arguments
from lds_iter.checks.solving import check_problem as check_problem
