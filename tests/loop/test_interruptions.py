"""Interrupts and errors in the middle of a solve: nothing is lost, nothing is corrupt, and the user is told where."""

import copy
import functools
import pickle
from dataclasses import dataclass

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


def test_an_interrupt_that_torch_meets_with_an_error_of_its_own_is_one():
    """Inside of forward mode torch loses count of its levels, and says so."""

    def interrupted(s, u):
        if len(s) > 3:
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("!dynamicLayerStack.empty() INTERNAL ASSERT FAILED")
        return elementwise(s, u)

    with pytest.raises(KeyboardInterrupt) as caught:
        li.solve(interrupted, *problem(40), li.Jacobi())
    assert caught.value.solution.result == li.Result.STOPPED


@pytest.mark.parametrize("length", [40, 300])  # too short for a race, and long enough
def test_an_interrupt_under_auto_keeps_the_rows_accepted(length):
    s0, u = problem(length, (2,))
    f, auto = tanh_rnn(4), li.Auto()
    expected = li.sequential(f, s0, u)
    for calls in 1, 2, 20, 35:
        with pytest.raises(KeyboardInterrupt) as caught:
            li.solve(FailingLate(f, calls, KeyboardInterrupt()), s0, u, auto)
        reached = caught.value.solution
        done = int(reached.iterations.min())
        torch.testing.assert_close(reached.states[:done], expected[:done], rtol=1e-8, atol=1e-8)
        assert done >= min(calls, 20) - 2 or (reached.result == li.Result.SUCCESS).all()  # all steps before the race
        again = li.solve(f, s0, u, auto)
        torch.testing.assert_close(again.states, expected, rtol=1e-8, atol=1e-8)  # the object is as it was


class FailingLate:
    """A recurrence that raises at its `at`-th call after the two of the check before the first iteration."""

    def __init__(self, f, at, error):
        self.f, self.at, self.error, self.calls = f, at + 2, error, 0

    def __call__(self, s, u):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.f(s, u)


@dataclass
class Weighted:
    """A recurrence with a weight, and an error when `armed`, at the `armed`-th call from then on."""

    weight: torch.Tensor
    error: type[BaseException]
    armed: int = 0

    def __call__(self, s, u):
        if self.armed:
            self.armed -= 1
            if not self.armed:
                raise self.error("mine")
        return torch.tanh(self.weight * s + u)


@pytest.mark.parametrize("method", [li.Jacobi(), li.Newton(), li.Auto((li.Newton(),))], ids=repr)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_what_ends_a_backward_pass_comes_through(error, method):
    """As what it is, with a note that says that it was the adjoint; and the next backward pass is right."""
    s0, u = problem(200)
    f = Weighted(torch.tensor(0.5, dtype=u.dtype, requires_grad=True), error)
    (expected,) = torch.autograd.grad(li.sequential(f, s0, u).sum(), f.weight)
    states = li.solve(f, s0, u, adjoint=li.Implicit(method)).states
    f.armed = 1
    with pytest.raises(error) as caught:
        torch.autograd.grad(states.sum(), f.weight, retain_graph=True)
    assert type(caught.value) is error
    if error is ZeroDivisionError:
        assert any("`f`" in note and "iteration 0" in note for note in caught.value.__notes__)
        assert any("adjoint recurrence" in note for note in caught.value.__notes__)
    (gradient,) = torch.autograd.grad(states.sum(), f.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


def test_an_interrupt_after_the_last_iteration_keeps_the_whole_solution():
    """`f` is called twice more: along the solution for the gradient, and at its end alone."""
    s0, u = problem(40)
    weight = torch.tensor(0.5, dtype=u.dtype, requires_grad=True)
    calls = FailingLate(Weighted(weight, ValueError), -9, ValueError())
    solution = li.solve(calls, s0, u, li.Jacobi())
    for last in 0, 1:
        f = FailingLate(Weighted(weight, ValueError), calls.calls - 2 - last, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt) as caught:
            li.solve(f, s0, u, li.Jacobi())
        assert caught.value.solution.converged
        assert torch.equal(caught.value.solution.states, solution.states)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_inside_of_f_comes_through_a_compiler(error):
    def f(s, u):
        if len(s) > 3:
            raise error("mine")
        return torch.tanh(0.5 * s + u)

    with pytest.raises(error) as caught:
        li.solve(li.Compiled(f, functools.partial(torch.compile, backend="eager")), *problem(40))
    if error is ZeroDivisionError:
        assert any("time steps 0 to 39" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("method", [None, li.Newton(), li.Auto()], ids=repr)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_error_inside_of_a_cell_comes_through_its_layer(error, method):
    class Cell(torch.nn.Module):
        hidden_size = 4

        def __init__(self):
            super().__init__()
            self.mix, self.armed = torch.nn.Linear(8, 4), 0

        def forward(self, x, h):
            self.armed -= 1
            if self.armed == 0:
                raise error("mine")
            return torch.tanh(self.mix(torch.cat([x, h], -1)))

    layer, x = li.nn.Recurrent(Cell(), method=method), torch.randn(150, 2, 4)
    with torch.no_grad():
        expected = layer(x)[0]
    for armed in 3, 4, 6:
        layer.cell.armed = armed
        with pytest.raises(error) as caught:
            layer(x)
        if error is KeyboardInterrupt:
            assert caught.value.solution.states.shape == (150, 2, 4)
        else:
            notes = caught.value.__notes__
            assert any("This came from `cell(x, state)`" in note for note in notes)
            assert any("in a solve" in note and "iteration" in note for note in notes)
        torch.testing.assert_close(layer(x)[0], expected, rtol=1e-4, atol=1e-4)  # the tolerance is 1e-5
    layer(x)[0].sum().backward()


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_an_error_inside_of_the_plain_loop_comes_with_its_time_step(context):
    with context(), pytest.raises(ZeroDivisionError, match="mine") as caught:
        li.sequential(FailingLate(elementwise, 8, ZeroDivisionError("mine")), *problem(40))
    assert "at time step 7" in caught.value.__notes__[-1]


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
