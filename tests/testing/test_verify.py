"""`li.verify` tells a fault from an amplified residual, and that from amplified rounding."""

import pytest
import torch
from catalogue import tanh_rnn
from problems import problem

import lds_iter as li


def test_a_right_solve_is_right():
    found = li.verify(tanh_rnn(4, 0.5), *problem(60, (3,)), li.QuasiNewton(), window=20).raise_if_failed()
    assert found.error.shape == found.first_step.shape == (3,)
    assert found.error.max() < 1e-9
    assert "right" in str(found)


def test_an_amplified_residual_is_told_from_a_fault():
    """An integrator adds up every residual: errors beyond the tolerance, and nothing wrong."""
    f, u = (lambda s, u: s + 0.1 * torch.sin(s + u)), torch.randn(400, 1, dtype=torch.float64)
    found = li.verify(f, torch.zeros(1, dtype=torch.float64), u, li.Damped(li.Newton(), 0.1), rtol=0, atol=1e-4)
    assert found.passed
    assert found.first_step > 0
    assert "the residual that the tolerance allows, amplified" in found.verdict


def test_amplified_rounding_is_told_from_a_fault():
    """The logistic map loses a bit a step: after 60 steps of float64 nothing is left."""
    f = lambda s, u: 4 * s * (1 - s) + 0 * u  # noqa: E731
    found = li.verify(f, torch.full((2,), 0.3, dtype=torch.float64), torch.zeros(100, 2, dtype=torch.float64))
    assert found.passed
    assert (found.first_step <= 0).all() or "amplifies rounding" in found.verdict
    assert float(found.amplified_rounding.max()) > 0.1


def test_a_fault_is_named_with_its_first_step():
    class Lying:
        """Its value in the loop is another one than alone, from step 20 on, by less than `solve` notices."""

        def __call__(self, s, u):
            return 0.5 * s + u + (1e-3 * (u[..., :1] > 0.99) if len(s) > 3 else 0)

    u = torch.zeros(40, 2, dtype=torch.float64)
    u[20] = 1
    found = li.verify(Lying(), torch.zeros(2, dtype=torch.float64), u)
    assert not found.passed
    assert int(found.first_step) == 20
    assert "WRONG" in str(found)
    with pytest.raises(AssertionError, match="first step  20 of 40"):
        found.raise_if_failed()


def test_a_solve_that_did_not_end_is_no_success():
    found = li.verify(tanh_rnn(4), *problem(60), li.Jacobi(), max_iters=2)
    assert not found.passed
    assert "not solved" in found.verdict
