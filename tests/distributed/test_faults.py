"""What goes wrong on one rank ends all ranks, with an error that names the rank and the cause."""

import pytest
from failing_solves import LATE, TRANSITIONS, failing, failing_at_once, several_ends, several_faults
from ranks import ON_FIRST_RANK, Gone, ends_of_ranks, on_ranks

TOLD = {  # by rank 0 and by the last rank, which is the one that differs
    "method": ("`method` must be the same on every rank of `mesh`, got Jacobi() on rank 0 and Picard() on rank 1",) * 2,
    "dtype": ("`s0` must be the same on every rank of `mesh`, got torch.float32 (2,) on cpu on rank 0 and",) * 2,
    "width": ("`s0` must be the same on every rank of `mesh`, got torch.float32 (2,) on cpu on rank 0 and",) * 2,
    "window": ("`window` must be the same on every rank of `mesh`, got None on rank 0 and 3 on rank 1",) * 2,
    "rtol": ("`rtol` must be the same on every rank of `mesh`, got 1e-05 on rank 0 and 0.001 on rank 1",) * 2,
    "record": ("`record` must be the same on every rank of `mesh`, got False on rank 0 and True on rank 1",) * 2,
    "atol": ("`atol` must be the same on every rank of `mesh`, got 1e-05 on rank 0 and 0.001 on rank 1",) * 2,
    "limit": ("`max_iters` must be the same on every rank of `mesh`, got None on rank 0 and 3 on rank 1",) * 2,
    "adjoint": ("`adjoint` must be the same on every rank of `mesh`, got Implicit(None, None, None, None) on rank 0",)
    * 2,
    "batch": ("`s0` must be the same on every rank of `mesh`, got torch.float32 (4, 2) on cpu on rank 0 and",) * 2,
    "broadcast": ("`inputs` must be the same on every rank of `mesh`, got torch.float32 (1, 2) a time step on ra",) * 2,
    "precision": ("`inputs` must be the same on every rank of `mesh`, got torch.float32 (2,) a time step on ran",) * 2,
    "tree": ("`inputs` must be the same on every rank of `mesh`, got torch.float32 (2,) a time step on rank 0",) * 2,
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
        assert sorted(found) == sorted(TOLD)
        for case, (_, text) in found.items():
            assert text.startswith(TOLD[case][rank]), (case, rank, text)


ENDED = "Rank {culprit} of `mesh` has ended {call}, and all ranks end with it. Its error: {cause}"
MISSED = (
    "Rank {culprit} of `mesh` did not send a message that rank {rank} waits for in {call}. In order of likelihood: "
)
WOKEN = "Rank {culprit} of `mesh`, this one, let the others wait in {call} for longer than the timeout"
APART = "The ranks of `mesh` are not in step: rank 0 sends "
MINE, INTERRUPTED = "ZeroDivisionError: mine", "KeyboardInterrupt: no message"

ENDS = {  # by the rank that acts and by the others
    "raises": (("ZeroDivisionError", "mine"), ("RankError", ENDED), "`solve`", MINE),
    "raises in a callback": (("ZeroDivisionError", "mine"), ("RankError", ENDED), "`solve`", MINE),
    "looks in a callback": (("ValueError", APART + "numbers float64"),) * 2 + ("", ""),
    "interrupt": (("KeyboardInterrupt", ""), ("RankError", ENDED), "`solve`", INTERRUPTED),
    "interrupt at first": (
        ("KeyboardInterrupt", ""),
        ("RankError", "Rank {culprit} of `mesh` was interrupted before the solve began"),
        "",
        "",
    ),
    "hangs": (("RankError", WOKEN), ("RankError", MISSED + "it hangs, or is busy, in `f`"), "`solve`", ""),
    "backward raises": (("ZeroDivisionError", "mine"), ("RankError", ENDED), "`.backward()`", MINE),
    "backward is interrupted": (("KeyboardInterrupt", ""), ("RankError", ENDED), "`.backward()`", INTERRUPTED),
    "backward hangs": (("RankError", WOKEN), ("RankError", MISSED), "`.backward()`", ""),
    "no backward": (("nothing", ""), ("RankError", MISSED + "it has not called `.backward()`"), "`.backward()`", ""),
    "solve for backward": (("ValueError", APART + "numbers bool (), float32 (), float32 (2,) in `.backward()`"),) * 2
    + ("", ""),
    "again": (("RankError", "An earlier solve on the process group of `mesh` ended with an error"),) * 2 + ("", ""),
    "diagonal": (("nothing", ""),) * 2 + ("", ""),
    **dict.fromkeys(("dense", "own", "looks"), (("ValueError", APART + "transitions Diagonal()"),) * 2 + ("", "")),
}
"""Cases of `several_ends`, apart from two whose words depend on which rank finds them first."""

QUICK = [name for name in ENDS if name not in LATE and name != "solve for backward"]
"""Those that wait for no other rank."""


@pytest.mark.parametrize(
    ("count", "culprit", "names"),
    [
        (2, 1, QUICK),
        pytest.param(2, 0, ["raises", "interrupt", "backward raises"], marks=pytest.mark.slow),
        pytest.param(4, 2, list(ENDS), marks=pytest.mark.slow),
    ],
)
def test_all_ranks_end_with_the_cause(count, culprit, names):
    for rank, found in enumerate(on_ranks(count, several_ends, culprit, names)):
        assert list(found) == names
        for name, (kind, text) in found.items():
            mine, others, call, cause = ENDS[name]
            wanted, words = mine if rank == culprit else others
            words = words.format(culprit=culprit, rank=rank, call=call, cause=cause)
            assert (kind, text[: len(words)]) == (wanted, words), (name, rank, kind, text)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "name"), [(2, "narrow"), (4, "passes")])
def test_a_method_that_chooses_by_its_own_rows_ends_all_ranks(count, name):
    """Where only a neighbour sees the odd message, or a check on the rank itself finds it first."""
    assert name in TRANSITIONS
    cause = "`Adaptive` must choose Diagonal with tensors of shape" if name == "narrow" else APART
    for found in on_ranks(count, several_ends, 1, [name]):
        assert cause in found[name][1]


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_keeper_of_the_store_leaves_after_all_have_read_its_error(count):
    found = ends_of_ranks(count, failing_at_once, 0, store=ON_FIRST_RANK)
    assert found[0] == ("ZeroDivisionError", "mine")
    for kind, text in found[1:]:
        assert (kind, text.partition("\n")[0]) == (
            "RankError",
            ENDED.format(culprit=0, call="`solve`", cause=MINE),
        )


@pytest.mark.parametrize(
    ("count", "culprit", "calls", "store"),
    [
        (2, 0, 6, ON_FIRST_RANK),
        (2, 1, 6, None),
        pytest.param(2, 1, 1, ON_FIRST_RANK, marks=pytest.mark.slow),
        pytest.param(4, 0, 6, ON_FIRST_RANK, marks=pytest.mark.slow),
        pytest.param(4, 3, 6, None, marks=pytest.mark.slow),
    ],
)
def test_the_other_ranks_name_one_that_is_killed(count, culprit, calls, store):
    """In the first call of `f`, which is part of the checks, or in the loop."""
    found = ends_of_ranks(count, failing, "dies", culprit, calls, store=store)
    for rank, answer in enumerate(found):
        if rank == culprit:
            assert isinstance(answer, Gone)
            assert "ended with -9" in str(answer)
        else:
            words = MISSED.format(culprit=culprit, rank=rank, call="`solve`") + "its process was killed"
            assert answer[0] == "RankError", answer
            assert answer[1].startswith(words), answer
