"""What kernels say again because they import no loop."""

import ast
from pathlib import Path

import lds_iter
from lds_iter.loop.frontier import ACCEPTED_ULPS

CELLS = Path(lds_iter.__file__).parent / "kernels" / "triton" / "cells"


def test_rows_are_accepted_at_the_rounding_of_the_loop():
    """Read, not imported: Triton may be missing."""
    for node in ast.parse((CELLS / "settling.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ULPS_ACCEPTED":
            assert ast.literal_eval(node.value) == ACCEPTED_ULPS
            return
    raise AssertionError("`ULPS_ACCEPTED` is gone")
