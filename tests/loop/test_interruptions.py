"""Interrupts and errors in the middle of a solve: nothing is lost, nothing is corrupt, and the user is told where."""

import copy
import pickle

import pytest
import torch
from catalogue import METHODS, elementwise, tanh_rnn
from problems import problem

import lds_iter as li


class Failing:
    """A recurrence that raises at its `at`-th call with more than three rows."""

    def __init__(self, f, at, error):
        self.f, self.at, self.error, self.calls = f, at, error, 0

    def __call__(self, s, u):
        self.calls += len(s) > 3
        if self.calls == self.at and len(s) > 3:
            raise self.error
        return self.f(s, u)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("name", ["jacobi", "picard", "trust-newton", "chord-newton"])
def test_an_interrupt_comes_through_and_carries_the_states_reached(name, at, window):
    s0, u = problem(40, (2,))
    f, method = tanh_rnn(4), METHODS[name]
    with pytest.raises(KeyboardInterrupt) as caught:
        li.solve(Failing(f, at, KeyboardInterrupt()), s0, u, method, window=window)
    reached = caught.value.solution
    assert (reached.result == li.Result.STOPPED).all()
    assert reached.states.isfinite().all()
    expected = li.sequential(f, s0, u)
    for batch in range(2):  # one row at least was accepted in each iteration that ended
        done = int(reached.iterations[batch])
        torch.testing.assert_close(reached.states[:done, batch], expected[:done, batch], rtol=1e-10, atol=1e-10)
    again = li.solve(f, s0, u, method, window=window, guess=reached.states)
    torch.testing.assert_close(again.states, expected, rtol=1e-8, atol=1e-8)  # the tolerance is 1e-10


def test_an_error_inside_of_f_comes_through_with_a_note_of_where():
    s0, u = problem(40)
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        li.solve(Failing(elementwise, 3, ZeroDivisionError("mine")), s0, u, li.Jacobi())
    assert any("time steps 0 to 39" in note and "iteration 2" in note for note in caught.value.__notes__)


def test_an_error_inside_of_a_callback_comes_through():
    s0, u = problem(40)

    def callback(progress):
        if progress.count == 2:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        li.solve(elementwise, s0, u, li.Jacobi(), callback=callback)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_failed_solve_copies_and_pickles_with_its_states(copied):
    s0, u = problem(40)
    with pytest.raises(li.SolveError) as caught:
        li.solve(tanh_rnn(4), s0, u, li.Jacobi(), max_iters=2)
    twin = copied(caught.value)
    assert str(twin) == str(caught.value)
    assert torch.equal(twin.solution.states, caught.value.solution.states)
    assert twin.solution.failed


def test_a_pool_of_processes_gets_the_error_of_a_failed_solve():
    with torch.multiprocessing.get_context("fork").Pool(1) as pool, pytest.raises(li.SolveError, match="max_iters=1"):
        pool.apply_async(_fails).get(timeout=120)


def _fails():
    torch.set_num_threads(1)
    return li.solve(elementwise, *problem(60), li.Jacobi(), max_iters=1).converged
