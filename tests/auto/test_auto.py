"""`Auto`: right whatever it decides, within its bound by counted costs, and it says what it did."""

import copy
import math
import pickle
from dataclasses import dataclass, field

import pytest
import torch
from catalogue import loop, tanh_rnn
from clocks import Counted, CountedClock
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li
from lds_iter.auto.costs import Costs
from lds_iter.auto.driver import Driver
from lds_iter.auto.estimates import expected
from lds_iter.auto.evidence import Evidence
from lds_iter.auto.looking import distance
from lds_iter.loop.state import Problem, Rules
from lds_iter.nn._kernel import Kernel

F64 = {"dtype": torch.float64}
# A solve stops at a residual of 1e-10, relative and absolute, which contracting systems do not amplify much.
STATES = {"rtol": 1e-7, "atol": 1e-7}


@dataclass(frozen=True)
class Ticking(li.auto.AbstractClock):
    """Every stretch of time takes one second, whatever happens in it; the kernel of a layer, run last, may take less.

    Before the kernel's six, the clock of a layer is read six times, for the first rows of the recurrence.
    """

    kernel: float = 1.0
    ticks: list[float] = field(default_factory=list)

    def now(self, like):
        self.ticks.append(self.kernel if 6 <= len(self.ticks) < 12 else 1.0)
        return sum(self.ticks)


def problem(gain=0.5, length=400, width=4, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(length, *batch, width, generator=generator, **F64)
    return tanh_rnn(width, gain, seed=seed), torch.zeros(*batch, width, **F64), u


def solve(f, s0, u, counted=None, **options):
    counted = Counted(f) if counted is None else counted
    solution = li.solve(counted, s0, u, li.Auto(clock=CountedClock(counted)), **options)
    return solution, counted


def assert_solved(solution, f, s0, u, tolerance=1e-10):
    """Every row is what `f` makes of the one before, within the tolerance: that is the sequential trajectory."""
    assert solution.converged
    value = f(torch.cat([s0[None], solution.states[:-1]]), u)
    gap = (value - solution.states).abs()
    assert (gap <= tolerance * (1 + value.abs())).all()


@pytest.mark.parametrize("length", [1, 2, 9, 119, 120, 500])
@pytest.mark.parametrize("row", [0.0, 1.0])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_right_for_any_length_batch_and_cost(length, row, batch):
    f, s0, u = problem(length=length, batch=batch)
    solution, _ = solve(f, s0, u, Counted(f, row=row))
    assert_solved(solution, f, s0, u)
    torch.testing.assert_close(solution.states, loop(f, s0, u), **STATES)
    assert (solution.iterations <= length).all()
    assert solution.decisions


@pytest.mark.parametrize("gain", [0.3, 0.9, 1.2, 2.0, 5.0])
@pytest.mark.parametrize("row", [0.0, 0.01, 0.3])
def test_right_from_stable_to_chaotic_and_within_the_bound(gain, row):
    f, s0, u = problem(gain=gain, length=1000, width=6)
    solution, counted = solve(f, s0, u / 5, Counted(f, row=row))
    assert_solved(solution, f, s0, u / 5)
    stepwise = 1000 * (counted.call + counted.row)
    # The bound of the docstring, with its constants: what is timed and checked, and of two candidates an iteration
    # whose cost was estimated too low, for here derivatives take twice what those of so few units do.
    dearer = 5 * (counted.call + 1000 * row)
    assert counted.spent <= 1.1 * stepwise + 2 * 5 * (1 + 32 * row) + 5 + 2 * dearer


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.2, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("row", [0.0, 0.003, 0.03, 0.3])
def test_whatever_the_evidence_no_solve_takes_twice_as_long_as_steps(gain, row):
    f, s0, u = problem(gain=gain, length=1500, width=8)
    solution, counted = solve(f, s0, u / 10, Counted(f, row=row))
    assert_solved(solution, f, s0, u / 10)
    # Twice the steps, and a constant: the looks, and an iteration over everything that cost more than was estimated.
    iteration = 5 * (counted.call + 1500 * counted.row)
    assert counted.spent <= 2 * 1500 * (counted.call + counted.row) + 5 * (counted.call + 187 * counted.row) + iteration


def test_chaos_is_evaluated_step_by_step():
    f, s0, u = problem(gain=5.0, length=2000, width=8)
    solution, _ = solve(f, s0, u / 10, Counted(f, row=0.0))
    assert solution.decisions[-1].choice == "step by step"
    assert int(solution.iterations) > 1000


def test_stable_recurrences_are_solved_in_parallel():
    f, s0, u = problem(gain=0.3, length=2000)
    solution, counted = solve(f, s0, u, Counted(f, row=0.0001))
    assert solution.decisions[-1].choice != "step by step"
    assert int(solution.iterations) < 30
    assert counted.spent < 0.1 * 2000 * counted.call


def test_later_solves_measure_nothing_again():
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, row=0.0001)
    auto = li.Auto(clock=CountedClock(counted))
    first = li.solve(counted, s0, u, auto)
    spent, counted.spent = counted.spent, 0.0
    explored = li.solve(counted, s0, u, auto)  # by what the first might have lost and did not
    assert "never tried" in explored.decisions[0].why
    assert counted.spent < 3 * spent
    counted.spent = 0.0
    last = li.solve(counted, s0, u, auto)
    assert counted.spent < spent - 6  # no sequential steps, no looks
    assert [decision.row for decision in last.decisions] == [0]
    assert "the last one took" in last.decisions[0].why
    torch.testing.assert_close(first.states, last.states, **STATES)
    again = li.solve(counted, s0, u, pickle.loads(pickle.dumps(li.Auto(costs=auto.costs))))
    assert "the last one took" in again.decisions[0].why


def test_over_many_solves_the_budget_holds_for_the_sum():
    f, s0, u = problem(gain=5.0, length=1000, width=6)
    counted = Counted(f, row=0.01)
    auto, solves = li.Auto(clock=CountedClock(counted)), 12
    for _ in range(solves):
        assert_solved(li.solve(counted, s0, u / 10, auto), f, s0, u / 10)
    stepwise = 1000 * (counted.call + counted.row)
    # A tenth, the looks of the first one at 125 rows, and two calls with one and two rows that `solve` checks `f` with.
    assert counted.spent <= solves * (1.1 * stepwise + 2.03) + 4 * (1 + 2.56) + 5 * (1 + 10)


def test_near_the_identity_picard_is_chosen_and_elsewhere_not():
    f, s0, u = problem(length=2000)

    def small_steps(s, u):
        return s + 1e-4 * (torch.sin(3 * s) + u)

    plain = Counted(small_steps)
    plain.linearize = None  # torch.func finds the derivatives
    solution, counted = solve(small_steps, s0, u, plain)
    assert solution.decisions[0].choice == "Picard()"
    assert_solved(solution, small_steps, s0, u)
    assert counted.spent < 200  # ten evaluations; a solve by steps would have cost 2002
    solution, _ = solve(f, s0, u)
    assert not any("Picard" in decision.choice for decision in solution.decisions)


def test_a_trajectory_that_is_right_but_for_one_row_has_come_far():
    f, s0, u = problem(length=1000)
    right = torch.cat([s0[None], loop(f, s0, u)])
    rules, auto = Rules(1e-10, 1e-10, 1000, 1000, False, ()), li.Auto()
    driver = Driver(auto, Problem(f, s0, u, 1000), right[1:], rules)
    bad, there = right.clone(), int(torch.linspace(0, 999, 64).round().long()[20])
    bad[there + 1] += 1.0
    far = distance(driver.course, s0.expand(1001, -1))
    assert distance(driver.course, right) < 1  # rounding: the batch of rows rounds in its own way
    assert distance(driver.course, bad) < 0.1 * far
    assert driver.course.parallel > 0


def test_looks_are_evidence_where_nothing_else_is():
    evidence = Evidence(4, 1000, 1e-10)
    for _ in range(3):
        evidence.add(1.0, 1)
    assert evidence.shown() == math.inf
    evidence.looks |= {0: 20.0, 3: 14.0}
    assert evidence.shown() == 7.0  # two digits an iteration
    stalled = Evidence(4, 1000, 1e-10, [1.0] * 9, [1] * 9, {0: 20.0, 3: 14.0, 9: 14.0})
    assert stalled.shown() == math.inf


def test_what_takes_longer_than_it_did_makes_everything_else_new_again():
    costs = Costs()
    costs.ended("a", 10, 4, 1.0)
    costs.ended("b", 10, None)
    assert costs.resting("b", 10)
    costs.ended("a", 10, 9, 1.2)
    assert costs.resting("b", 10)
    costs.ended("a", 10, 20, 2.0)
    assert not costs.resting("b", 10)
    assert costs.known("a", 10).seconds == 2.0


def test_decisions_explain_themselves():
    f, s0, u = problem(gain=0.3, length=2000)
    solution, _ = solve(f, s0, u)
    text = str(solution.decisions[0])
    assert "iterations of" in text
    assert "step by step" in text
    short, _ = solve(f, s0, u[:20])
    assert "20 rows are too few" in str(short.decisions[0])
    assert li.solve(f, s0, u).decisions == ()
    assert pickle.loads(pickle.dumps(solution)).decisions == solution.decisions


@settings(max_examples=25, deadline=None)
@given(
    gain=st.floats(0, 3),
    length=st.integers(1, 300),
    width=st.integers(1, 5),
    mates=st.integers(1, 3),
    row=st.floats(0, 2),
    linear=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_never_wrong(gain, length, width, mates, row, linear, seed):
    f, s0, u = problem(gain, length, width, (mates,), seed)
    if linear:
        weight = min(gain, 1.0) * torch.linalg.qr(torch.randn(width, width, **F64)).Q
        f = lambda s, u: s @ weight.T + u  # noqa: E731
    solution, _ = solve(f, s0, u, Counted(f, row=row))
    assert_solved(solution, f, s0, u)
    assert (solution.iterations <= length).all()


def test_a_sequence_that_overflows_does_not_disturb_its_mates():
    def f(s, u):
        return s * s + u

    u = torch.zeros(400, 3, 1, **F64)
    s0 = torch.tensor([[0.5], [1.5], [0.2]], **F64)
    for row in 0.0, 5.0:
        solution, _ = solve(f, s0, u, Counted(f, row=row), throw=False)
        assert solution.result.tolist() == [li.Result.SUCCESS, li.Result.NONFINITE, li.Result.SUCCESS]
        expected = loop(f, s0, u)
        finite = expected[:, 1].isfinite().all(-1)
        assert torch.equal(solution.states[finite, 1], expected[finite, 1])
        # The residual, 1e-10, is all that separates these from the loop: both contract.
        torch.testing.assert_close(solution.states[:, [0, 2]], expected[:, [0, 2]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", [0.0, 1.0])
def test_gradients_are_those_of_the_loop(row):
    weight = (0.4 * torch.randn(4, 4, **F64)).requires_grad_()
    u = torch.randn(300, 2, 4, **F64)
    counted = Counted(lambda s, u: torch.tanh(s @ weight.T + u), row=row)
    solution, _ = solve(None, torch.zeros(2, 4, **F64), u, counted)
    expected = li.sequential(counted, torch.zeros(2, 4, **F64), u)
    loss, other = (states.square().mean() for states in (solution.states, expected))
    (found,), (wanted,) = torch.autograd.grad(loss, weight), torch.autograd.grad(other, weight)
    torch.testing.assert_close(found, wanted, **STATES)


def test_record_callback_stop_and_limits_keep_their_meaning():
    f, s0, u = problem(gain=3.0, length=600, width=6)
    seen = []
    solution, _ = solve(f, s0, u / 10, record=True, callback=seen.append)
    assert solution.history.residual_map.shape[:2] == (len(seen), 600)
    assert float(solution.history.residual_map[-1].max()) == float(solution.history.residual[-1])
    assert int(seen[-1].accepted) == 600
    stopped, _ = solve(f, s0, u / 10, stop=lambda progress: progress.accepted >= 300)
    assert stopped.result == li.Result.STOPPED
    torch.testing.assert_close(stopped.states[:300], loop(f, s0, u / 10)[:300], **STATES)
    limited, _ = solve(f, s0, u / 10, max_iters=40, throw=False)
    assert limited.result == li.Result.MAX_ITERS
    assert int(limited.iterations) == 40
    narrow, _ = solve(f, s0, u / 10, window=16)
    assert narrow.converged


def test_what_cannot_work_is_refused():
    f, s0, u = problem()
    with pytest.raises(TypeError, match=r"Unroll\(\)` differentiates the iterations of one method"):
        li.solve(f, s0, u, li.Auto(), adjoint=li.Unroll())
    with pytest.raises(TypeError, match=r"must be a tuple of li\.auto\.Candidate"):
        li.Auto(candidates=(li.Newton(),))
    with pytest.raises(TypeError, match=r"must be a tuple of li\.auto\.Candidate"):
        li.Auto(candidates=li.Newton())
    with pytest.raises(ValueError, match="needs one to start with"):
        li.Auto(candidates=(li.auto.Candidate(li.Newton(), rescue=True),))
    with pytest.raises(ValueError, match="`budget` must lie in"):
        li.Auto(budget=0)
    with pytest.raises(TypeError, match="got the class Auto"):
        li.solve(f, s0, u, li.Auto)
    with pytest.raises(TypeError, match="TransitionApproximation"):
        li.Damped(li.Auto(), 0.1)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("gain", [1.0, 8.0])
def test_layers_answer_as_torch_does_and_end_the_waste(kind, gain):
    theirs = getattr(torch.nn, kind)(3, 6, num_layers=2, bidirectional=True, **F64)
    ours = getattr(li.nn, kind)(3, 6, num_layers=2, bidirectional=True, method=li.Auto(clock=Ticking()), **F64)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "weight_hh" in name:
                weight.mul_(gain)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(400, 2, 3, **F64)
    for grad in False, True:
        with torch.set_grad_enabled(grad):
            for _ in range(4):
                found, expected = ours(x)[0], theirs(x)[0]
                # Expanding networks amplify the residual of 1e-10; how much, the longest memory here decides.
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
                assert all(int(solution.iterations.max()) < 50 for solution in ours.last_solution)


def test_layers_learn_from_one_forward_to_the_next(monkeypatch):
    ours, x = li.nn.GRU(3, 4, method=li.Auto(clock=Ticking()), **F64), torch.randn(4000, 1, 3, **F64)
    monkeypatch.setattr(Kernel, "known", lambda *_: 0.125)
    with torch.no_grad():
        for _ in range(6):
            ours(x)
    # A kernel step is 1/8 s here and an iteration takes one by the clock: 4 or 9 of them beat 500.
    assert ours.last_solution[0].converged
    assert "the last one took" in ours.last_solution[0].decisions[0].why
    ours(torch.randn(40, 1, 3, **F64))  # short: torch at once
    assert ours.last_solution == ()
    assert copy.deepcopy(ours).method == ours.method


def test_layers_rest_on_torchs_kernel_where_it_is_faster():
    theirs = torch.nn.GRU(3, 130, **F64)
    ours = li.nn.GRU(3, 130, method=li.Auto(clock=Ticking(kernel=0.01)), **F64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1000, 1, 3, **F64)  # too wide to begin at once; a second for the kernel, one for an iteration
    decided = []
    with torch.no_grad():
        for _ in range(8):
            assert torch.equal(ours(x)[0], theirs(x)[0])
            decided.append(bool(ours.last_solution))
    # Nothing was tried, so the rests grow: 1, 2, 4 ... forwards.
    assert decided == [True, False, True, False, False, True, False, False]


def test_where_the_kernel_is_faster_no_solve_is_prepared(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a solve was begun")

    monkeypatch.setattr("lds_iter.nn._stack.solve", refuse)
    ours = li.nn.LSTM(3, 4, num_layers=2, bidirectional=True, method=li.Auto(clock=Ticking(kernel=0.01)), **F64)
    x = torch.randn(1000, 1, 3, **F64)
    with torch.no_grad():
        ours(x)
        # One kernel for all steps cannot be outrun without having been timed, which its answer is used for.
        assert ours.last_solution == ()
        assert len(ours.method.costs.kernels) == 2
        ours(x)
    assert [int(solution.result) for solution in ours.last_solution] == [li.Result.STOPPED] * 4
    assert all("if all goes well" in solution.decisions[0].why for solution in ours.last_solution)
    assert all(int(solution.evaluations) == 0 for solution in ours.last_solution)


def test_in_training_the_kernel_is_timed_with_its_backward_pass():
    auto = li.Auto(clock=Ticking())
    ours = li.nn.GRU(3, 130, method=auto, **F64)  # too wide to begin at once
    for _ in range(2):
        ours(torch.randn(1000, 1, 3, **F64))[0].sum().backward()
    # Six ticks for the first rows of the recurrence and six for the kernel: nothing was timed outside of grad mode.
    assert [key[-2] for key in auto.costs.kernels] == [True]
    assert {key[-1] for key in auto.costs.kinds if key[-1] in ("forward", "training")} == {"training"}


def test_a_cell_without_a_kernel_goes_step_by_step():
    layer = li.nn.Recurrent(torch.nn.GRUCell(3, 4))
    states, last = layer(torch.randn(30, 2, 3))
    assert layer.last_solution.decisions[-1].choice == "step by step"
    assert torch.equal(states[-1], last)


def test_a_module_with_an_attribute_called_linear_is_not_taken_for_a_linear_recurrence():
    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, s, u):
            return torch.tanh(self.linear(s) + u)

    auto, x = li.Auto(), torch.randn(300, 3)
    newton = auto.candidates[0]
    driver = Driver(auto, Problem(Step(), torch.zeros(3), x, 300), x, Rules(0, 1e-5, 300, 300, False, ()))
    assert expected(driver.course, newton) == newton.expected != newton.linear
