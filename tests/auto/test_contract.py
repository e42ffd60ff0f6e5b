"""The steps of `Auto`, which the loop does not make, hold `f` to the same contract."""

import pytest
import torch
from catalogue import loop

import lds_iter as li

S0 = torch.zeros(2, 3)


def inputs(length):
    return torch.randn(length, 2, 3, generator=torch.Generator().manual_seed(0))


def f(s, u):
    return torch.tanh(0.5 * s + u)


class Late:
    """`f`, and something else from some call on; the check before the first step makes two calls."""

    def __init__(self, other, calls):
        self.other, self.left = other, calls

    def __call__(self, s, u):
        self.left -= 1
        return self.other(s, u) if self.left < 0 else f(s, u)


def writing_into_states(s, u):
    value = f(s, u)
    s.zero_()
    return value


BROKEN = {
    "another width": (lambda s, u: f(s, u)[..., :1], "must return the same kind of tensor at every call"),
    "a row more": (lambda s, u: f(s, u).repeat(2, 1, 1), "must return the same kind of tensor at every call"),
    "another dtype": (lambda s, u: f(s, u).double(), "must return the same kind of tensor at every call"),
    "None": (lambda s, u: None, "must return the same kind of tensor at every call"),
    "a number": (lambda s, u: 0.5, "must return the same kind of tensor at every call"),
    "writing into its state": (writing_into_states, "`f` writes into the states"),
    "random numbers": (lambda s, u: f(s, u) + torch.randn_like(s), "random"),
}


@pytest.mark.parametrize("calls", [2, 3, 9])
@pytest.mark.parametrize("length", [40, 300])  # too short for a race, and long enough
@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_the_contract_at_a_later_step_is_named(name, length, calls):
    other, message = BROKEN[name]
    with pytest.raises((ValueError, RuntimeError), match=message):  # random numbers: torch's words, with our note
        li.solve(Late(other, calls), S0, inputs(length), li.Auto())


@pytest.mark.parametrize("length", [40, 300])
def test_a_value_that_shares_memory_with_the_states_is_right(length):
    u = inputs(length)

    def in_place(s, u):
        return s.clone().mul_(0.5).add_(u).tanh_()

    def views(s, u):
        return torch.stack([f(s, u), s])[0]

    for function in in_place, views:
        states = li.solve(function, S0, u, li.Auto()).states
        torch.testing.assert_close(states, loop(function, S0, u), rtol=4e-5, atol=4e-5)  # 1e-5, and errors that double


@pytest.mark.parametrize("length", [40, 300])
def test_a_value_that_is_not_finite_ends_its_sequence_alone(length):
    u = inputs(length).index_put((torch.tensor(30), torch.tensor(1)), torch.tensor(7.0))
    breaking = lambda s, u: torch.where(u == 7, torch.inf, f(s, u))  # noqa: E731
    solution = li.solve(breaking, S0, u, li.Auto(), throw=False)
    assert solution.result.tolist() == [li.Result.SUCCESS, li.Result.NONFINITE]
    torch.testing.assert_close(solution.states[:30], loop(f, S0, u)[:30], rtol=4e-5, atol=4e-5)
    torch.testing.assert_close(solution.states[:, 0], loop(f, S0, u)[:, 0], rtol=4e-5, atol=4e-5)
