"""Shared trajectories against one process: the same counts and codes, states and gradients to rounding."""

import pytest
import torch
from ranks import on_ranks
from shared_solves import METHODS, all_methods, solved

EXACT = ("iterations", "result", "resets", "adjoint", "evaluations", "accepted")


def check_equal(ranks, alone, tolerance, case):
    """What all ranks found together is what one process finds."""

    def close(found, wanted, name):
        torch.testing.assert_close(
            found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda text: f"{case} {name}: {text}"
        )

    for name in "states", "inputs", "estimate":
        close(torch.cat([rank[name] for rank in ranks]), alone[name], name)
    for name in "weight", "s0":
        close(sum(rank[name] for rank in ranks), alone[name], name)
    for rank in ranks:
        assert {name: rank[name].tolist() for name in EXACT} == {name: alone[name].tolist() for name in EXACT}, case
        close(rank["map"], alone["map"], "map")
        close(rank["residual"], alone["residual"], "residual")


@pytest.mark.parametrize(
    ("sizes", "windows", "names"),
    [
        ((19, 18), [None, 8], ("newton", "chord", "then", "trust", "filter", "switch")),
        ((10, 0, 26, 1), [8], ("newton", "smoother")),
        pytest.param((19, 18), [None, 8], tuple(METHODS), marks=pytest.mark.slow),
        pytest.param((10, 0, 26, 1), [None], tuple(METHODS), marks=pytest.mark.slow),
        pytest.param((10, 0, 26, 1), [8], ("chord", "then", "switch", "trust", "trusted"), marks=pytest.mark.slow),
        pytest.param((0, 1, 1, 35), [None, 8], ("newton", "smoother", "trust"), marks=pytest.mark.slow),
    ],
)
def test_every_method_finds_what_one_process_finds(sizes, windows, names):
    found = on_ranks(len(sizes), all_methods, sizes, windows, torch.float64, names)
    for case in found[0]:
        alone = solved(METHODS[case[0]], case[1], torch.float64)
        # Converged to 1e-10, and sums over time are made in another order; gradients are promised to 1e-10.
        check_equal([rank[case] for rank in found], alone, 1e-10, case)


def test_single_precision():
    found = on_ranks(2, all_methods, (20, 17), [None, 10], torch.float32, ("newton", "quasi"))
    for case in found[0]:
        alone = solved(METHODS[case[0]], case[1], torch.float32)
        check_equal([rank[case] for rank in found], alone, 1e-5, case)  # converged to 1e-5
