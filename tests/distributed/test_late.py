"""Kernels are compiled before the first message, for which the other ranks wait longer than the group's timeout."""

import pytest
from late_ranks import late
from ranks import ends_of_ranks


@pytest.mark.slow
def test_ranks_wait_for_one_that_compiles_but_not_for_one_that_hangs():
    """Both come later than messages may take; the one that hangs, after the roll call of three seconds too."""
    assert ends_of_ranks(2, late, 3.5, True, timeout=1.5) == [("nothing", "")] * 2
    found = ends_of_ranks(2, late, 6.0, False, timeout=1.5)
    assert found[0][0] == "RankError"
    assert found[0][1].startswith("Rank 1 of `mesh` did not send a message that rank 0 waits for"), found
