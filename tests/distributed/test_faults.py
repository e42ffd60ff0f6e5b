"""What goes wrong on one rank ends all ranks, with an error that names the rank and the cause."""

import pytest
from failing_solves import failing, failing_backward, several_faults
from ranks import ends_of_ranks, on_ranks

TOLD = {  # by rank 0 and by the last rank, which is the one that differs
    "method": ("`method` must be the same on every rank of `mesh`, got Jacobi() on rank 0 and Picard() on rank 1",) * 2,
    "dtype": ("`s0` must be the same on every rank of `mesh`, got torch.float32 (2,) on cpu on rank 0 and",) * 2,
    "width": ("`s0` must be the same on every rank of `mesh`, got torch.float32 (2,) on cpu on rank 0 and",) * 2,
    "window": ("`window` must be the same on every rank of `mesh`, got None on rank 0 and 3 on rank 1",) * 2,
    "rtol": ("`rtol` must be the same on every rank of `mesh`, got 1e-05 on rank 0 and 0.001 on rank 1",) * 2,
    "record": ("`record` must be the same on every rank of `mesh`, got False on rank 0 and True on rank 1",) * 2,
    "nan": (
        "Rank 1 of `mesh` has arguments that cannot work: ValueError: `inputs` contains inf or NaN",
        "`inputs` con",
    ),
    "guess": ("Rank 1 of `mesh` has arguments that cannot work: ValueError: `guess` must have", "`guess` must have"),
    "nothing to do": ("`inputs` has T = 0 time steps on every rank of `mesh`",) * 2,
    "auto": ("`mesh` needs one method for all ranks, got Auto",) * 2,
    "compiled": ("`mesh` runs iterations that talk to other ranks, which no compiled graph holds",) * 2,
    "unroll": ("`mesh` has no backpropagation through its iterations",) * 2,
    "coarse": ("`mesh` has no guess by `Coarse`",) * 2,
    "max_iters": ("`solve` did not converge for 1 of 1 sequence(s)",) * 2,
    "no mesh": ("`mesh` must be a one-dimensional DeviceMesh",) * 2,
    "after all": ("", ""),
}


def test_what_cannot_work_is_told_to_all_ranks_which_stay_in_step():
    for rank, found in enumerate(on_ranks(2, several_faults)):
        assert list(found) == list(TOLD)
        for case, (_, text) in found.items():
            assert text.startswith(TOLD[case][rank]), (case, rank, text)


@pytest.mark.parametrize("calls", [1, 5])
def test_an_error_of_f_on_one_rank_ends_all(calls):
    """At the first call, which is part of the checks, and in the loop."""
    found = ends_of_ranks(2, failing, "raises", 1, calls)
    assert found[1] == ("ZeroDivisionError", "mine")
    assert "ank 1 of `mesh`" in found[0][1]
    assert "ZeroDivisionError: mine" in found[0][1]


def test_an_error_in_the_backward_pass_of_one_rank_ends_all():
    found = ends_of_ranks(2, failing_backward, 0)
    assert found[0] == ("ZeroDivisionError", "mine")
    assert found[1][0] == "RankError"
    assert "Rank 0 of `mesh` has ended the solve" in found[1][1]


@pytest.mark.parametrize("culprit", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_other_ranks_name_one_that_is_killed(culprit):
    found = ends_of_ranks(2 if culprit == 1 else 4, failing, "dies", culprit, 6)
    for rank, answer in enumerate(found):
        if rank != culprit:
            assert answer[0] == "RankError", answer
            assert answer[1].startswith(f"Rank {culprit} of `mesh` did not send a message"), answer
