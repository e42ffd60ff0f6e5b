"""What `Progress`, `History` and `Solution` tell of a solve from inside, and gradients of what is not `f`."""

import copy
from dataclasses import dataclass

import pytest
import torch
from catalogue import METHODS, elementwise, loop, tanh_rnn
from problems import problem

import lds_iter as li

F64 = torch.float64


def test_the_history_has_the_methods_own_numbers_and_the_resets():
    f, (s0, u) = tanh_rnn(4, 2.0), problem(60, (3,))
    seen = []
    solution = li.solve(f, s0, u, li.TrustRegion(li.Newton()), record=True, callback=seen.append)
    numbers = solution.history.numbers
    assert {"k", "rejected"} <= set(numbers)
    for count, progress in enumerate(seen):
        for name, rows in numbers.items():
            assert torch.equal(rows[count], getattr(progress.carry, name).double()), name
    assert torch.equal(numbers["rejected"][-1], solution.carry.rejected.double())
    assert len(solution.history.resets) == len(seen)
    assert torch.equal(solution.history.resets[-1], solution.resets)


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_numbers_of_carries_of_every_kind(batch):
    @dataclass(frozen=True)
    class Carries(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            one = torch.ones(batch, dtype=F64)
            deep = [li.AdjointCounts(one, one, one)]
            return torch.zeros_like(lin.residual), {"a": (one, lin.residual.clone()), "deep": deep}

    history = li.solve(elementwise, *problem(5, batch), Carries(), record=True).history
    assert set(history.numbers) == {"a.0", *(f"deep.0.{name}" for name in ("iterations", "residual", "result"))}
    assert history.numbers["a.0"].shape == history.residual.shape
    plain = li.solve(elementwise, *problem(5, batch), li.Newton(), record=True)
    assert plain.history.numbers == {}
    assert copy.deepcopy(plain.history).numbers == {}


def test_resets_are_counted_iteration_by_iteration():
    @dataclass(frozen=True)
    class Poison(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            return torch.full_like(lin.residual, torch.nan), carry

    resets = li.solve(elementwise, *problem(12), Poison(), record=True).history.resets
    assert resets[0] == 0
    assert (resets.diff() >= 0).all()
    assert resets[-1] > resets[1] > 0


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyError("mine")], ids=repr)
@pytest.mark.parametrize("taker", ["callback", "stop"])
@pytest.mark.parametrize("record", [False, True])
def test_an_error_of_a_callback_keeps_the_solution(error, taker, record):
    f, (s0, u) = tanh_rnn(4), problem(40, (2,))

    def watch(progress):
        if progress.count == 3:
            raise error
        return torch.zeros(2, dtype=torch.bool)

    with pytest.raises(type(error), match="mine") as caught:
        li.solve(f, s0, u, li.Jacobi(), **{taker: watch}, record=record)
    reached = caught.value.solution
    assert reached.iterations.tolist() == [3, 3]
    assert (reached.result == li.Result.STOPPED).all()
    residual = (f(torch.cat([s0[None], reached.states[:-1]]), u) - reached.states).abs().amax((0, -1))
    torch.testing.assert_close(reached.residual, residual, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reached.states[:3], loop(f, s0, u)[:3], rtol=1e-12, atol=1e-12)
    assert li.solve(f, s0, u, li.Jacobi(), guess=reached.states).converged


def test_the_cause_of_a_callbacks_error_is_kept():
    def watch(progress):
        raise ValueError("mine") from KeyError("its cause")

    with pytest.raises(ValueError, match="mine") as caught:
        li.solve(elementwise, *problem(10), callback=watch)
    assert isinstance(caught.value.__cause__, KeyError)


# Counts of the adjoint


@pytest.mark.parametrize("name", ["newton", "quasi", "jacobi", "trust-newton"])
def test_a_solution_tells_how_its_adjoint_was_solved(name):
    f, (s0, u) = tanh_rnn(4), problem(40, (3,))
    s0.requires_grad_()
    solution = li.solve(f, s0, u, METHODS[name])
    assert solution.adjoints == ()
    solution.states.sum().backward(retain_graph=True)
    (first,) = solution.adjoints
    assert first.iterations.shape == first.residual.shape == first.result.shape == (3,)
    assert (first.result == li.Result.SUCCESS).all()
    assert first.residual.max() < 1e-9
    if name in ("newton", "trust-newton"):
        assert (first.iterations == 1).all()  # it is linear
    else:
        assert (first.iterations > 1).all()
    solution.states.square().sum().backward()
    assert len(solution.adjoints) == 2
    assert solution.light().adjoints == ()
    with torch.no_grad():
        assert li.solve(f, s0, u, METHODS[name]).adjoints == ()


# Gradients of what is not `f`


class Learned(torch.nn.Module, li.TransitionApproximation):
    """A diagonal that is a parameter."""

    def __init__(self, width):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.full((width,), 0.1, dtype=F64))

    def transition(self, lin):
        return li.Diagonal(self.rate.expand_as(lin.residual))


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: li.Damped(m, 0.1), lambda m: li.Then(li.Jacobi(), m, 1)])
def test_a_gradient_reaches_the_parameters_of_a_method_under_unroll(wrap, window):
    """Against finite differences of an unfinished solve, in which the parameter matters."""
    (s0, u), method = problem(12), Learned(4)

    def states():
        solution = li.solve(
            elementwise, s0, u, wrap(method), max_iters=3, window=window, throw=False, adjoint=li.Unroll()
        )
        return solution.states.sin().sum()

    (found,) = torch.autograd.grad(states(), method.rate)
    step, expected = 1e-6, torch.zeros(4, dtype=F64)
    for i in range(4):
        ends = []
        for sign in 1, -1:
            with torch.no_grad():
                method.rate[i] += sign * step
                ends.append(float(states()))
                method.rate[i] -= sign * step
        expected[i] = (ends[0] - ends[1]) / (2 * step)
    assert found.abs().min() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # differences of 1e-6, squared, and rounding


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.TrustRegion(li.Newton())], ids=repr)
def test_a_gradient_reaches_the_guess_under_unroll(method):
    s0, u = problem(8, width=2)
    guess = torch.randn(8, 2, dtype=F64, requires_grad=True)

    def states(guess):
        return li.solve(elementwise, s0, u, method, guess=guess, max_iters=2, throw=False, adjoint=li.Unroll()).states

    assert torch.autograd.gradcheck(states, guess)
    (found,) = torch.autograd.grad(states(guess).sum(), guess)
    assert found.abs().max() > 1e-6


def test_a_learned_method_learns():
    """A few steps of gradient descent through three iterations bring the diagonal to where the residual is smaller."""
    torch.manual_seed(0)
    f, s0, u = (lambda s, u: 0.7 * s + 0.1 * torch.sin(s) + u), torch.zeros(4, dtype=F64), torch.randn(40, 4, dtype=F64)
    method = Learned(4)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.1)
    truth, before = li.sequential(f, s0, u), int(li.solve(f, s0, u, method).iterations)
    for _ in range(30):
        optimizer.zero_grad()
        reached = li.solve(f, s0, u, method, max_iters=3, throw=False, adjoint=li.Unroll()).states
        (reached - truth).square().sum().backward()
        optimizer.step()
    assert int(li.solve(f, s0, u, method).iterations) < 0.7 * before  # 40, all T, before


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_method_sees_which_rows_it_has_and_of_how_many(window, compiled):
    """Of a solve and of its adjoint, which has a row less; by a length that a compiler may trace."""
    seen = []

    @dataclass(frozen=True)
    class Looking(li.TransitionApproximation):
        def transition(self, lin):
            seen.append((lin.rows, lin.length, tuple(lin.states.shape), tuple(lin.prev.shape)))
            return li.Dense(lin.jacobian() * (1 if lin.length > 19 else 0.5))

    f, (s0, u) = tanh_rnn(4), problem(20)
    s0.requires_grad_()
    states = li.solve(li.Compiled(f, lambda body, **_: body) if compiled else f, s0, u, Looking(), window=window).states
    for rows, length, *shapes in seen:
        assert length == 20
        assert shapes == [(rows.stop - rows.start, 4)] * 2
    assert {0, 20} <= {bound for rows, *_ in seen for bound in (rows.start, rows.stop)}
    seen.clear()
    (g,) = torch.autograd.grad(states.sum(), s0)
    assert {length for _, length, *_ in seen} == {19}
    (expected,) = torch.autograd.grad(loop(f, s0, u).sum(), s0)
    torch.testing.assert_close(g, expected, rtol=1e-8, atol=1e-8)  # residuals of 1e-10, twice solved
