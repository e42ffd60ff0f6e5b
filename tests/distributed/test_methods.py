"""Shared trajectories against one process: the same counts and codes, states and gradients to rounding."""

import pytest
import torch
from ranks import on_ranks
from shared_solves import METHODS, all_methods, solved

@pytest.mark.parametrize("sizes", [(19, 18), (10, 0, 26, 1)])
def test_every_method(sizes):
    dtype, windows = torch.float64, [None, 8]
    found = on_ranks(len(sizes), all_methods, sizes, windows, dtype, list(METHODS))
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    bad = []
    for key in found[0]:
        alone = solved(METHODS[key[0]], key[1], dtype)
        ranks = [answer[key] for answer in found]
        for name in "states", "u", "estimate":
            torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), alone[name], rtol=1e-9, atol=1e-9, msg=lambda m: f"{key} {name} {m}")
        for name in "weight", "s0":
            torch.testing.assert_close(sum(rank[name] for rank in ranks), alone[name], rtol=1e-9, atol=1e-9, msg=lambda m: f"{key} {name} {m}")
        for name in "iterations", "result", "resets", "adjoint", "evaluations":
            for rank in ranks:
                if not torch.equal(rank[name], alone[name]):
                    bad.append((key, name, rank[name], alone[name]))
        for rank in ranks:
            torch.testing.assert_close(rank["map"], alone["map"], rtol=1e-5, atol=1e-9, equal_nan=True, msg=lambda m: f"{key} map {m}")
    assert not bad, bad
