"""Checks of what one writes oneself: methods, transitions, scans, derivatives, recurrences; each report teaches."""

from lds_iter.testing import method_laws as method_laws
from lds_iter.testing.findings import BrokenLaws as BrokenLaws
from lds_iter.testing.findings import Examination as Examination
from lds_iter.testing.findings import Finding as Finding
from lds_iter.testing.findings import Findings as Findings
from lds_iter.testing.findings import Measurements as Measurements
from lds_iter.testing.method_laws import Trial as Trial
from lds_iter.testing.of_derivatives import check_derivatives as check_derivatives
from lds_iter.testing.of_methods import check_method as check_method
from lds_iter.testing.of_recurrences import check_recurrence as check_recurrence
from lds_iter.testing.of_scans import check_scan as check_scan
from lds_iter.testing.of_transitions import check_transition as check_transition
