"""The loop driven by hand: the same as `solve`, with every iterate open to inspection."""

import copy

import pytest
import torch
from catalogue import METHODS, elementwise, tanh_rnn
from problems import problem

import lds_iter as li


def driven(state):
    while not state.ended:
        state = li.iterate(state)
    return state


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", METHODS)
def test_the_same_count_and_states_as_solve(name, window):
    s0, u = problem(20, (2,))
    wanted = li.solve(tanh_rnn(4), s0, u, METHODS[name], window=window)
    with torch.no_grad():
        found = li.finish(driven(li.start(tanh_rnn(4), s0, u, METHODS[name], window=window)))
    for field in "result", "iterations", "evaluations", "resets", "states", "residual":
        assert torch.equal(getattr(found, field), getattr(wanted, field)), field


def test_nothing_that_was_handed_out_changes():
    s0, u = problem(20, (2,))
    kept, copies, state = [], [], li.start(elementwise, s0, u, li.TrustRegion(li.Newton()), window=7)
    with torch.no_grad():
        while not state.ended:
            kept.append(state)
            copies.append(copy.deepcopy(state.state))
            state = li.iterate(state)
    for one, other in zip(kept, copies, strict=True):
        assert torch.equal(one.states, other.states[1:])
        assert torch.equal(one.frontier, other.frontier)
        assert torch.equal(one.update, other.update)


def test_every_iterate_has_its_own_residual_and_the_update_leads_to_the_next():
    s0, u = problem(30, (3,))
    state = li.start(tanh_rnn(4), s0, u)
    assert state.residual.isnan().all()
    with torch.no_grad():
        state = li.iterate(state)
        while not state.ended:
            lin = state.linearization()
            torch.testing.assert_close(lin.residual.abs().amax((0, -1)), state.residual)
            d = li.linear_scan(state.method.transition(lin), lin.residual)
            running = state.result == li.Result.RUNNING
            # Rows accepted at rounding level do not move, which the scan over all rows does not know.
            torch.testing.assert_close(state.update[:, running], d[:, running], rtol=1e-9, atol=1e-12)
            before, state = state, li.iterate(state)
            moved = (before.states + before.update)[:, running]
            torch.testing.assert_close(state.states[:, running], moved, rtol=1e-12, atol=1e-12)


def test_going_on_from_a_solution_with_its_carry():
    s0, u = problem(200, (), seed=1)
    f, method = tanh_rnn(4, 1.6), li.TrustRegion(li.Newton())
    whole = li.solve(f, s0, u, method)
    half = li.solve(f, s0, u, method, max_iters=int(whole.iterations) // 2, throw=False)
    with torch.no_grad():
        rest = li.finish(driven(li.start(f, s0, u, method, guess=half)))
    assert half.iterations + rest.iterations == whole.iterations
    with pytest.raises(TypeError, match=r"guess=solution\.states"):
        li.start(f, s0, u, li.Chord(li.Newton(), 2), guess=half)


def test_an_unfinished_solve_says_so():
    s0, u = problem(20)
    with torch.no_grad():
        solution = li.finish(li.iterate(li.start(tanh_rnn(4), s0, u, li.Jacobi())))
    assert solution.result == li.Result.STOPPED
    assert solution.residual > 0


def test_a_strategy_is_not_driven_by_hand():
    with pytest.raises(TypeError, match=r"method=li\.Newton"):
        li.start(elementwise, *problem(5), li.Auto())
