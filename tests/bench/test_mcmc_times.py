"""The bench of times: its gate, and its table from figures alone."""

import dataclasses

import pytest
import torch

from bench.mcmc.cases import CASES
from bench.mcmc.contenders import OURS, Loop
from bench.mcmc.page import timed
from bench.mcmc.times import _gate, left, times

MIXTURE = CASES[0]


def test_ours_is_the_loop_and_a_wrong_chain_gets_no_time():
    loop = Loop().run(MIXTURE, 2, 40)
    ours = OURS[0].run(MIXTURE, 2, 40)
    difference = float((ours.positions - loop.positions).abs().max())
    assert _gate(ours, loop, difference, MIXTURE, {}) == "timed"
    wrong = dataclasses.replace(ours, accepted=~ours.accepted)
    assert "80 decisions differ" in _gate(wrong, loop, difference, MIXTURE, {})
    assert "positions by" in _gate(ours, loop, 1.0, MIXTURE, {})
    assert ours.gradients > loop.gradients == 2


def test_noise_of_its_own_must_have_the_variance_of_the_target():
    torch.manual_seed(0)
    right = torch.randn(2000, 4, 2).double() * 5**0.5
    drawn = dataclasses.replace(Loop().run(MIXTURE, 1, 4), positions=right)
    found = {"ess": [8000.0, 8000.0]}
    assert _gate(drawn, drawn, None, MIXTURE, found) == "timed"
    assert "standard errors" in _gate(dataclasses.replace(drawn, positions=1.1 * right), drawn, None, MIXTURE, found)


def test_rows_that_are_done_are_not_measured_again():
    pytest.importorskip("arviz")
    row = next(times(20, ()))
    assert row["state"] == "timed"
    done = {(row["case"], row["chains"], row["contender"])}
    assert left(done) == left(()) - 1


def test_the_table():
    row = {"case": "a", "chains": 2, "moves": 1000, "state": "timed", "setup": 0.0, "iterations": None,
           "difference": 0.0, "ess": 50.0, "gradients": 2.0}  # fmt: skip
    rows = [{**row, "contender": "`sample_in_turn`", "seconds": 6.0},
            {**row, "contender": "ours", "seconds": 2.0, "iterations": 7},
            {**row, "contender": "other", "seconds": None, "state": "not installed"}]  # fmt: skip
    table = timed({"device": "d", "threads": 2, "torch": "2", "rows": rows})
    assert "| a | 2 x 1,000 | ours | 7 | 2 | 3.00 | 1,000 | 25 | 12.5 | - | 0e+00 |" in table
    assert "| other | not installed |" in table
