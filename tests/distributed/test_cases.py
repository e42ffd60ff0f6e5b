"""Shared trajectories against one process: every method, wrapper and option, on ranks with many, one and no steps."""

import pytest
import torch
from ranks import on_ranks
from shared_cases import CASES, F32, LENGTHS, outcome, outcomes

TOLERANCES = {F32: 1e-5, torch.float64: 1e-10}
"""Of the largest number: sums over time are made in another order. Solves converge to as much."""


def check_close(found, wanted, tolerance, name):
    """Equal up to rounding of the largest number; not finite in the same places."""
    size = wanted.nan_to_num(0, 0, 0).abs().amax() if wanted.numel() else 0
    torch.testing.assert_close(
        found,
        wanted,
        rtol=tolerance,
        atol=tolerance * max(1.0, float(size)),
        equal_nan=True,
        msg=lambda text: f"{name}: {text}",
    )


def leaves(value):
    return torch.utils._pytree.tree_leaves(value)


def check_outcome(ranks, alone, case, name):
    """What the ranks found together is what one process finds."""
    tolerance = TOLERANCES[case.dtype]
    if not case.exact:
        tolerance = 100 * tolerance  # residuals within the tolerance of the solve, and condition numbers of some tens
    for key, wanted in alone["rows"].items():
        check_close(torch.cat([rank["rows"][key] for rank in ranks]), wanted, tolerance, (*name, key))
    for key, wanted in alone["sums"].items():
        check_close(sum(rank["sums"][key] for rank in ranks), wanted, tolerance, (*name, key))
    if not case.exact:
        return
    for number, rank in enumerate(ranks):
        assert len(leaves(rank["whole"])) == len(leaves(alone["whole"])), name
        for found, wanted in zip(leaves(rank["whole"]), leaves(alone["whole"]), strict=True):
            check_close(found.double(), wanted.double(), tolerance, (*name, number))
        for key, wanted in alone["counts"].items():
            found = rank["counts"][key]
            assert [x.tolist() for x in leaves(found)] == [x.tolist() for x in leaves(wanted)], (*name, key, number)


@pytest.mark.parametrize(
    ("count", "kinds"),
    [
        (2, ["structures", "codes"]),
        (4, ["options"]),
        pytest.param(2, ["pairs", "single"], marks=pytest.mark.slow),
        pytest.param(4, ["methods", "structures", "structures damped", "codes"], marks=pytest.mark.slow),
    ],
)
def test_ranks_find_what_one_process_finds(count, kinds):
    sizes = LENGTHS[count]
    found = on_ranks(count, outcomes, sizes, kinds)
    for kind in kinds:
        for name, case in CASES[kind].items():
            check_outcome([rank[kind, name] for rank in found], outcome(case, sizes), case, (kind, name))
