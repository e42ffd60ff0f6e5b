"""The bench of Markov chains: counts, the gate of its times, its tables. No test reads a clock."""

import pytest
import torch

import lds_iter as li
from bench.mcmc import measure
from bench.mcmc.cases import CASES
from bench.mcmc.page import counted

FEWEST = {"mixture, MALA": 100, "banana, HMC": 60, "eight schools, Gibbs": 30}
"""Iterations of the default method for 300 moves stay below: about twice those counted (45, 29, 13), on this noise."""


@pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)
def test_the_default_method_needs_few_iterations(case):
    assert case.sampler.method(2) == li.TrustRegion(li.Newton())
    row = measure.count(case, "TrustRegion(Newton())", 300)
    assert None not in row.iterations
    assert max(row.iterations) < FEWEST[case.name]


def test_tables():
    torch.manual_seed(0)
    rows = [vars(measure.count(CASES[2], "Newton()", 30)), vars(measure.count(CASES[3], "Picard()", 30))]
    text = counted([*rows, {**rows[0], "iterations": [3, None]}, {**rows[0], "iterations": [None]}])
    assert "3 to over 300" in text
    assert "| over 300 |" in text
