"""A whole iteration in one launch: against the loop that does it in many, sweep by sweep and to the end.

By Triton's interpreter on a CPU, where the host is kept from looking as it would be on a device; on the device itself
where there is a GPU.
"""

import dataclasses

import pytest
import torch
from watchers import Synchronisations

import lds_iter as li
from lds_iter import _torch
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.loop import run
from lds_iter.loop.iteration import evaluate
from lds_iter.loop.state import LoopOptions, Problem, first_state
from lds_iter.recurrence import IterationRequest

pytest.importorskip("triton", reason="the kernels need Triton, which is made for Linux")
from schedules import scrambled

from lds_iter.kernels.triton.cells import (
    gru_step,  # they import Triton
    lstm_step,  # they import Triton
    rnn_step,  # they import Triton
    settling,  # they import Triton
)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{said}:RuntimeWarning") for said in ("invalid value", "overflow encountered")
]  # of the interpreter's numpy, where states are NaN or huge

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

CELLS = {
    "gru": (lambda width: li.nn.GRURecurrence.from_module(torch.nn.GRU(2, width)), li.QuasiNewton()),
    "tanh": (lambda width: li.nn.RNNRecurrence.from_module(torch.nn.RNN(2, width)), li.QuasiNewton()),
    "relu": (
        lambda width: li.nn.RNNRecurrence.from_module(torch.nn.RNN(2, width, nonlinearity="relu")), li.QuasiNewton(),
    ),
    "lstm": (lambda width: li.nn.LSTMRecurrence.from_module(torch.nn.LSTM(2, width)), li.BlockNewton(2)),
}  # fmt: skip

# Float32: a few units in the last place (6e-8) of numbers of size 1, after sums of `width` terms and scans.
ROUNDING = {"rtol": 0, "atol": 4e-6}


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Programs of 16 rows, two maps to a group, memory that is NaN where it is not written, and a blind host."""
    for kernel, rows in (gru_step, "ROWS"), (rnn_step, "ROWS"), (lstm_step, "ITERATED"):
        monkeypatch.setattr(kernel, rows, {16: 16, 32: 16})
    for name, value in {"GROUP": 2, "LEVELS": 2, "SETTLING_TILE": 2}.items():
        monkeypatch.setattr(settling, name, value)
    monkeypatch.setattr(_torch, "on_host", lambda tensor: False)
    torch.use_deterministic_algorithms(True)
    with torch.no_grad():
        yield
    torch.use_deterministic_algorithms(False)


def problem(name, n, batch, width=5):
    with torch.device(DEVICE):
        f = CELLS[name][0](width)
        s0 = torch.randn(*batch, width * (2 if name == "lstm" else 1))
        return Problem(f, s0, f.inputs(torch.randn(n, *batch, 2)), n)


def rules(n, window=None, rtol=0.0, atol=1e-6):
    return LoopOptions(rtol, atol, max_iters=n, window=window or n)


def evaluated(given, method, guess, frontier, how, kernel, monkeypatch):
    """One iteration from a frontier: the state that it leads to, and the rows proposed."""
    state = dataclasses.replace(first_state(given, method, guess, how), frontier=frontier)
    with monkeypatch.context() as patch:
        patch.setattr(cells, "runs_on", lambda tensor: True)  # the same bits of values
        if not kernel:
            patch.setattr(type(given.f), "fused_iteration", lambda *arguments: None)
        state = evaluate(given, method, state, how)
    return state, state.proposal.states[1 + state.proposal.start : 1 + state.proposal.stop]


@pytest.mark.parametrize(
    ("name", "n", "batch", "window"),
    [("gru", 1, (2,), None), ("gru", 50, (), None), ("gru", 50, (3,), 21), ("tanh", 33, (2, 1), None),
     ("relu", 33, (2,), None), ("lstm", 50, (2,), None), ("lstm", 40, (3,), 20)],
)  # fmt: skip
def test_an_iteration_finds_what_that_of_the_loop_finds(name, n, batch, window, monkeypatch):
    """From a guess that is solved to rounding up to different rows, and NaN or huge here and there."""
    given, method = problem(name, n, batch), CELLS[name][1]
    solution = li.sequential(given.f, given.s0, given.inputs)
    times = torch.arange(n, device=DEVICE).view(-1, *[1] * given.s0.ndim)
    solved = torch.randint(0, n, batch, device=DEVICE).unsqueeze(-1) if batch else n // 3
    guess = torch.where(times < solved, solution, torch.randn_like(solution))
    frontier = torch.randint(0, max(1, n // 5), batch, device=DEVICE)
    if n > 1 and batch:
        guess[n // 2, 0] = torch.nan
        guess[2 * n // 3, -1, ..., 0] = 3e38
    how = rules(n, window, rtol=1e-6)
    mine, next_one = evaluated(given, method, guess, frontier, how, True, monkeypatch)
    other, wanted = evaluated(given, method, guess, frontier, how, False, monkeypatch)
    for field in "frontier", "result", "evaluations":
        assert torch.equal(getattr(mine, field), getattr(other, field)), field
    assert torch.equal(mine.proposal.resets, other.proposal.resets)
    for field in "residual", "accepted_residual":  # the same numbers, but for how a * b + c is rounded
        torch.testing.assert_close(getattr(mine, field), getattr(other, field), rtol=1e-6, atol=1e-7, equal_nan=True)
    torch.testing.assert_close(next_one, wanted, **ROUNDING)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_the_loop_comes_to_the_same_end_in_as_many_iterations(name, monkeypatch):
    given, method = problem(name, 20, (2,)), CELLS[name][1]
    monkeypatch.setattr(cells, "runs_on", lambda tensor: True)
    found = li.solve(given.f, given.s0, given.inputs, method, rtol=0, atol=1e-5)
    monkeypatch.setattr(type(given.f), "fused_iteration", lambda *arguments: None)
    wanted = li.solve(given.f, given.s0, given.inputs, method, rtol=0, atol=1e-5)
    assert torch.equal(found.result, wanted.result)
    assert torch.equal(found.iterations, wanted.iterations)
    # What is left of a residual of 1e-5 in contracting systems.
    torch.testing.assert_close(found.states, wanted.states, rtol=0, atol=1e-4)


def test_a_row_that_overflows_ends_its_sequence_alone(monkeypatch):
    monkeypatch.setattr(cells, "runs_on", lambda tensor: True)
    given = problem("relu", 8, (3,))
    given.inputs[3:5, 1] = 3e38
    solution = li.solve(given.f, given.s0, given.inputs, li.QuasiNewton(), rtol=0, atol=1e-5, throw=False)
    assert solution.result.tolist() == [li.Result.SUCCESS, li.Result.NONFINITE, li.Result.SUCCESS]
    alone = li.solve(given.f, given.s0[[0, 2]], given.inputs[:, [0, 2]], li.QuasiNewton(), rtol=0, atol=1e-5)
    assert torch.equal(alone.states, solution.states[:, [0, 2]])
    assert torch.equal(alone.iterations, solution.iterations[[0, 2]])


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has schedules of its own")
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_no_bit_depends_on_what_runs_when(name, monkeypatch):
    given, method = problem(name, 40, (2,)), CELLS[name][1]
    guess, frontier, how = torch.randn(40, *given.s0.shape), torch.tensor([0, 3]), rules(40)
    found, wanted = evaluated(given, method, guess, frontier, how, True, monkeypatch)
    waited = False
    for seed in range(50):  # until a program has waited for another, which is up to the scheduler of the machine
        with scrambled(seed) as polls:
            again, states = evaluated(given, method, guess, frontier, how, True, monkeypatch)
        assert torch.equal(states, wanted)
        assert torch.equal(again.frontier, found.frontier)
        waited = waited or False in polls
        if waited:
            break
    assert waited


def test_an_iteration_reads_nothing_but_one_flag(monkeypatch):
    monkeypatch.setattr(cells, "runs_on", lambda tensor: True)
    monkeypatch.setattr(_torch, "lags", lambda tensor: True)
    given = problem("gru", 12, (2,))
    guess = given.s0.expand(12, *given.s0.shape).contiguous()
    with Synchronisations() as seen:
        state = run(given, li.QuasiNewton(), guess, rules(12, atol=1e-5))
    assert seen.counts == {"_local_scalar_dense": state.count - 1}


def test_what_the_kernels_do_not_serve_the_loop_does(monkeypatch):
    monkeypatch.setattr(cells, "runs_on", lambda tensor: True)
    given = problem("gru", 9, (2,))
    states = torch.cat([given.s0[None], given.s0.expand(9, *given.s0.shape)])
    lo = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    for method in li.Newton(), li.QuasiNewton(li.Hutchinson()), li.BlockNewton(5):
        request = IterationRequest(
            method, given.inputs, states, states.clone(), given.s0, 0, lo, lo + 9, rtol=0.0, atol=1e-5
        )
        assert given.f.fused_iteration(request) is None
    with torch.enable_grad():
        states = li.solve(given.f, given.s0, given.inputs, li.QuasiNewton(), rtol=0, atol=1e-5).states
    torch.testing.assert_close(states, li.sequential(given.f, given.s0, given.inputs), rtol=0, atol=1e-4)


def test_the_iterations_are_well_formed_operations():
    lo, hi = torch.zeros(2, dtype=torch.int64, device=DEVICE), torch.full((2,), 4, device=DEVICE)
    for name, operation in ("gru", "gru_iteration_"), ("tanh", "rnn_iteration_"), ("lstm", "lstm_iteration_"):
        given = problem(name, 4, (2,), 3)
        f, s0, u = given.f, given.s0, given.inputs
        own = (u, f.weights.hh, False) if name == "tanh" else (*u, f.weights.hh)
        own = (*own, f.weights.inner_bias) if name == "gru" else own
        own = [x.detach() if isinstance(x, torch.Tensor) else x for x in own]
        rest = (torch.zeros(4, *s0.shape, device=DEVICE), s0, 0, lo, hi, 0.0, 1e-5)
        checks = ("test_schema", "test_faketensor")
        operation = getattr(torch.ops.lds_iter, operation).default
        torch.library.opcheck(operation, (s0.expand(5, *s0.shape).contiguous(), *own, *rest), test_utils=checks)
