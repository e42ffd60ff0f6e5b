"""The loop as it runs on an accelerator: masks instead of looking, a stop flag that is read late.

What the host may look at is decided in `lds_iter._torch` alone, so the whole path runs on a CPU too. Where there is a
GPU, the same tests run on it.
"""

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, elementwise, loop, tanh_rnn
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import BATCHES, CLOSE, problem
from watchers import Synchronisations

import lds_iter as li
from lds_iter import _torch
from lds_iter.loop.run import run
from lds_iter.loop.state import LoopOptions, Problem

EVERY = {**METHODS, **ADVERSARIES}


@pytest.fixture
def blind(monkeypatch):
    """The host sees nothing for free, and the stop flag lags."""
    monkeypatch.setattr(_torch, "on_host", lambda tensor: False)
    monkeypatch.setattr(_torch, "lags", lambda tensor: True)


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=12)
@given(length=st.integers(1, 24), batch=BATCHES, seed=st.integers(0, 9), data=st.data())
def test_without_looking_the_loop_comes_to_the_same_end(name, length, batch, seed, data):
    window = data.draw(st.one_of(st.none(), st.integers(1, length)))
    f, (s0, u) = tanh_rnn(4, seed=seed), problem(length, batch, seed=seed)
    solution = li.solve(f, s0, u, EVERY[name], window=window, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(solution.states, loop(f, s0, u), **CLOSE)
    assert solution.iterations.max() <= length


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("window", [None, 5])
def test_counts_codes_and_states_are_those_of_the_loop_that_looks(name, window, monkeypatch):
    s0, u = problem(30, (3,))
    u[12:, 2] = 300.0
    rate = torch.tensor([0.1, 0.8, 0.5], dtype=torch.float64)[:, None]

    def f(s, u):
        return torch.where(u == 300.0, torch.inf, rate * torch.sin(s) + u)

    blind = li.solve(f, s0, u, EVERY[name], window=window, throw=False, max_iters=20)
    monkeypatch.undo()
    looking = li.solve(f, s0, u, EVERY[name], window=window, throw=False, max_iters=20)
    for field in "result", "iterations", "evaluations", "residual", "states":
        assert torch.equal(getattr(blind, field).nan_to_num(-1), getattr(looking, field).nan_to_num(-1)), field
    assert li.Result.NONFINITE in looking.result


@pytest.mark.usefixtures("blind")
def test_the_stop_flag_lags_by_one_iteration_and_results_ignore_it():
    s0, u = problem(40)
    calls = []

    def counted(s, inputs):
        calls.append(len(s))
        return elementwise(s, inputs)

    solution = li.solve(counted, s0, u, li.QuasiNewton())
    # Two checks of `f` before and one after, one evaluation per iterate (the guess first), D products each are jvps
    # of the same function, so count with Jacobi, which takes none.
    calls.clear()
    solution = li.solve(counted, s0, u, li.Jacobi())
    assert len(calls) == 3 + (int(solution.iterations) + 1) + 1
    calls.clear()
    recorded = li.solve(counted, s0, u, li.Jacobi(), record=True)
    assert len(calls) == 3 + 2 * (int(solution.iterations) + 1)  # the record evaluates `f` once more
    assert len(recorded.history.residual) == int(solution.iterations) + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    f, (s0, u) = tanh_rnn(4), problem(60, (3,))
    weight = f.__closure__[0].cell_contents.cuda()
    for name in METHODS:
        for window in None, 7:
            solution = li.solve(
                lambda s, u: torch.tanh(s @ weight.T + u), s0.cuda(), u.cuda(), EVERY[name], window=window,
                rtol=1e-12, atol=1e-12,
            )  # fmt: skip
            torch.testing.assert_close(solution.states.cpu(), loop(f, s0, u), **CLOSE)


HOLDS_A_MATRIX = {"rotated-quasi", "trust-rotated"}
"""Those of the catalogue do so on the CPU, from where every iteration would copy it."""


def arguments(device="cpu", length=30, batch=(3,)):
    """A problem for the loop itself, so that what is checked before it is not counted."""
    weight = tanh_rnn(4).__closure__[0].cell_contents.to(device)
    s0, u = (x.to(device) for x in problem(length, batch))
    rules = LoopOptions(rtol=1e-12, atol=1e-12, max_iters=length, window=length)
    f = lambda s, u: torch.tanh(s @ weight.T + u)  # noqa: E731
    return Problem(f, s0, u, length), s0.expand(length, *s0.shape).contiguous(), rules


@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", METHODS)
def test_an_iteration_reads_nothing_but_one_flag(name):
    recurrence, guess, rules = arguments()
    with torch.no_grad(), Synchronisations() as seen:
        state = run(recurrence, METHODS[name], guess, rules)
    assert seen.counts == {"_local_scalar_dense": state.count - 1}  # the flag of each iteration, read one later


def test_the_counter_sees_what_it_should():
    x = torch.tensor([1.0, 0.0])
    for name, read in {
        "_local_scalar_dense": lambda: bool(x[0]),
        "nonzero": lambda: torch.where(x),
        "index": lambda: x[x > 0],
        "index_put_": lambda: x.clone().__setitem__(x > 0, 2.0),
        "equal": lambda: torch.equal(x, x + 1),
        "lift_fresh": lambda: x.new_tensor(1.0),
    }.items():
        with Synchronisations() as seen:
            read()
        assert seen.counts[name] == 1, name
    with Synchronisations() as seen:
        torch.where(x > 0, x, 0).cumsum(0)[torch.arange(1)]
    assert not seen.counts


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [name for name in METHODS if name not in HOLDS_A_MATRIX])
def test_on_a_gpu_an_iteration_waits_for_nothing(name):
    recurrence, guess, rules = arguments("cuda")
    with torch.no_grad():
        run(recurrence, METHODS[name], guess, rules)  # libraries initialise
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(recurrence, METHODS[name], guess, rules)
        finally:
            torch.cuda.set_sync_debug_mode("default")
