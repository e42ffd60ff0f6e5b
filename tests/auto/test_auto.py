"""`Auto`: right whatever it decides, within its bound by counted costs, and it says what it did."""

import copy
import pickle
import threading
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from catalogue import loop, tanh_rnn
from clocks import Counted, CountedClock
from hypothesis import given, settings
from hypothesis import strategies as st

import lds_iter as li
from lds_iter.loop.state import LoopOptions, Problem

F64 = {"dtype": torch.float64}
# A solve stops at a residual of 1e-10, relative and absolute, which contracting systems do not amplify much.
STATES = {"rtol": 1e-7, "atol": 1e-7}


def problem(gain=0.5, length=400, width=4, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(length, *batch, width, generator=generator, **F64)
    return tanh_rnn(width, gain, seed=seed), torch.zeros(*batch, width, **F64), u


def solve(f, s0, u, counted=None, **options):
    counted = Counted(f) if counted is None else counted
    return li.solve(counted, s0, u, li.Auto(clock=CountedClock(counted)), **options), counted


@dataclass(frozen=True)
class Loading:
    """A counted recurrence whose first derivatives of few, more and many rows take so much longer each."""

    counted: Counted
    loaded: set[int] = field(default_factory=set)

    def __call__(self, s, u):
        return self.counted(s, u)

    def linearize(self, s, u):
        size = min((rows for rows in (64, 512) if s.shape[0] <= rows), default=2000)
        self.counted.spent += 0 if size in self.loaded else 1e4
        self.loaded.add(size)
        return self.counted.linearize(s, u)


def assert_solved(solution, f, s0, u, tolerance=1e-10):
    """Every row is what `f` makes of the one before, within the tolerance: that is the sequential trajectory."""
    assert solution.converged
    value = f(torch.cat([s0[None], solution.states[:-1]]), u)
    assert ((value - solution.states).abs() <= tolerance * (1 + value.abs())).all()


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
def test_the_first_solves_of_a_kind_stay_within_the_bound(gain, row):
    f, s0, u = problem(gain=gain, length=1000, width=6)
    counted = Counted(f, row=row)
    auto, spent = li.Auto(clock=CountedClock(counted)), []
    for _ in range(8):
        counted.spent = 0.0
        assert_solved(li.solve(counted, s0, u / 5, auto), f, s0, u / 5)
        spent.append(counted.spent)
    # The budget, an iteration in the shortest window or one of six that fit into it, and the calls with which `solve`
    # checks `f`.
    bound = 1.1 * 1000 * (1 + row) + max(6 * (1 + 64 * row), 0.1 * 1000 * (1 + row) / 6) + 20 * (1 + row)
    assert sorted(spent)[-3] <= bound
    # A promise that lies costs the time of the steps once more, and the evaluations of one iteration over all rows
    # (twelve units, a trust region looks twice); here that is two contenders at most, and never the winner.
    assert max(spent) <= bound + 1000 * (1 + row) + 12 * (1 + 1000 * row)
    assert spent[-1] <= 1000 * (1 + row) + 20 * (1 + row)


def test_the_winner_runs_as_the_fixed_method_does():
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, row=0.0001)
    auto = li.Auto(clock=CountedClock(counted))
    for _ in range(9):
        counted.spent = 0.0
        solution = li.solve(counted, s0, u, auto)
    spent, counted.spent = counted.spent, 0.0
    fixed = li.solve(counted, s0, u, li.Newton())
    assert spent == pytest.approx(counted.spent)  # sums of the same costs
    assert "the last one took" in solution.decisions[0].why
    assert [decision.choice for decision in solution.decisions] == ["Newton()"]
    assert torch.equal(solution.iterations, fixed.iterations)
    assert torch.equal(solution.states, fixed.states)


def test_chaos_ends_step_by_step_and_what_forgets_in_parallel():
    f, s0, u = problem(gain=5.0, length=2000, width=8)
    solution, _ = solve(f, s0, u / 10, Counted(f, row=0.0))
    assert solution.decisions[-1].choice == "step by step"
    f, s0, u = problem(gain=0.3, length=2000)
    solution, counted = solve(f, s0, u, Counted(f, row=0.0001))
    assert solution.decisions[-1].choice == "Newton()"
    assert counted.spent < 0.1 * 2000


def test_only_a_winner_that_is_slow_twice_is_raced_again():
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, row=0.0001)
    auto = li.Auto((li.Newton(),), clock=CountedClock(counted))
    whys = []
    for call in 1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 9.0:
        counted.call = call
        whys.append(li.solve(counted, s0, u, auto).decisions[0].why)
    assert ["to be tried" in why for why in whys] == [True, False, False, False, False, False, False, True]


def test_steps_that_were_slow_once_are_timed_again():
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, call=100.0, row=0.002)  # as where the first steps load code
    auto = li.Auto((li.Newton(), li.Picard()), clock=CountedClock(counted))
    for call in 100.0, *[0.01] * 9:
        counted.call = call
        solution = li.solve(counted, s0, u, auto)
    assert [decision.choice for decision in solution.decisions] == ["step by step"]  # 24 units, and Newton 60 or more


def test_a_contender_whose_first_iterations_load_code_is_tried_again():
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, row=0.0001)
    auto, loading = li.Auto((li.Newton(),), clock=CountedClock(counted)), Loading(counted)
    for _ in range(6):
        solution = li.solve(loading, s0, u, auto)
    assert [decision.choice for decision in solution.decisions] == ["Newton()"]


@dataclass(frozen=True)
class Numbered(li.LDSApproximation):
    """Picard's update or none, which notes the number of each of its iterations."""

    moves: bool
    seen: list[int] = field(default_factory=list, compare=False)

    def init(self, guess):
        return None

    def update(self, lin, carry):
        self.seen.append(lin.iteration)
        d, _ = li.Picard().update(lin, None)
        return d * self.moves, None


def test_every_contender_counts_its_own_iterations():
    """`Then` and `Switch` go by them; steps that were timed before do not count."""
    f, s0, u = problem(gain=0.3, length=2000)
    counted = Counted(f, row=0.0001)
    contenders = Numbered(moves=False), Numbered(moves=True)
    auto = li.Auto(contenders, clock=CountedClock(counted))
    for method, stepped in zip(contenders, (26, 0), strict=True):  # one a solve, as the first spends the budget
        assert li.solve(counted, s0, u, auto).decisions[0].row == stepped
        assert len(method.seen) > 1
        assert method.seen == list(range(len(method.seen)))


def test_a_recurrence_with_compiled_steps_is_not_raced():
    f, s0, u = problem()

    class Stepping:
        def __call__(self, s, u):
            return f(s, u)

        def steps(self, s0, inputs):
            return loop(f, s0, inputs)

    solution = li.solve(Stepping(), s0, u, li.Auto())
    assert [decision.why for decision in solution.decisions] == ["the recurrence has compiled steps"]
    assert torch.equal(solution.states, loop(f, s0, u))


@settings(max_examples=25, deadline=None)
@given(
    gain=st.floats(0, 3),
    length=st.integers(1, 300),
    width=st.integers(1, 5),
    batch=st.integers(1, 3),
    row=st.floats(0, 2),
    seed=st.integers(0, 1000),
)
def test_never_wrong(gain, length, width, batch, row, seed):
    f, s0, u = problem(gain, length, width, (batch,), seed)
    solution, _ = solve(f, s0, u, Counted(f, row=row))
    assert_solved(solution, f, s0, u)
    assert (solution.iterations <= length).all()


def test_a_sequence_that_overflows_does_not_disturb_the_others():
    def f(s, u):
        return s * s + u

    u, s0 = torch.zeros(400, 3, 1, **F64), torch.tensor([[0.5], [1.5], [0.2]], **F64)
    for row in 0.0, 5.0:
        solution, _ = solve(f, s0, u, Counted(f, row=row), throw=False)
        assert solution.result.tolist() == [li.Result.SUCCESS, li.Result.NONFINITE, li.Result.SUCCESS]
        # The residual, 1e-10, is all that separates these from the loop: both contract.
        torch.testing.assert_close(solution.states[:, [0, 2]], loop(f, s0, u)[:, [0, 2]], rtol=1e-9, atol=1e-9)


def test_stop_callback_and_limits_keep_their_meaning():
    f, s0, u = problem(gain=3.0, length=600, width=6)
    seen = []
    solve(f, s0, u / 10, callback=seen.append)
    assert int(seen[-1].accepted) == 600
    stopped, _ = solve(f, s0, u / 10, stop=lambda progress: progress.accepted >= 300)
    assert stopped.result == li.Result.STOPPED
    limited, _ = solve(f, s0, u / 10, max_iters=40, throw=False)
    assert limited.result == li.Result.MAX_ITERS
    assert int(limited.iterations) == 40
    assert solve(f, s0, u / 10, window=16)[0].converged


def stepped(length, **options):
    """A chaotic recurrence whose parallel evaluation costs so much that nearly all rows are stepped."""
    f, s0, u = problem(gain=3.0, length=length, width=6)
    counted = Counted(f, row=1.0)
    solution = li.solve(counted, s0, u, li.Auto((li.Jacobi(),), clock=CountedClock(counted)), **options)
    value = f(torch.cat([s0[None], solution.states[:-1]]), u)
    return solution, (value - solution.states).abs().amax(-1)


@pytest.mark.parametrize("rule", [li.Below(1e-2), li.Stalled(20), li.SmallUpdate(1e-2), lambda p: p.residual < 1e-2])
def test_rules_on_iterates_do_not_end_sequential_steps(rule):
    solution, residual = stepped(8000, stop=rule)  # rules see steps 31 times, and an attempt less than 20
    assert solution.converged
    assert residual.max() <= 1e-10


@pytest.mark.parametrize("rule", [li.After(300), li.Elapsed(0), li.After(300) & ~li.Below(1e-2)])
def test_steps_that_a_rule_ends_have_no_residual(rule):
    seen = []
    solution, residual = stepped(1000, stop=rule, callback=seen.append)
    assert solution.result == li.Result.STOPPED
    assert solution.residual.isnan()  # 0, the residual of no iterate, was reported here
    last = seen[-1]
    assert last.stepped
    assert last.update.isnan().all()
    assert 0 < int(last.accepted) < 1000
    assert residual[: int(last.accepted)].max() <= 1e-10


def test_copies_know_nothing_and_memory_is_bounded():
    f, s0, _ = problem()
    auto = li.Auto()
    empty = len(pickle.dumps(auto))
    for length in range(1, 70):
        for batch in 1, 2:
            li.solve(f, s0.expand(batch * length, 4), torch.zeros(130, batch * length, 4, **F64), auto)
    assert len(auto._table) <= 64
    assert len(pickle.dumps(auto)) == empty
    for copied in copy.deepcopy(auto), pickle.loads(pickle.dumps(auto)):
        assert copied == auto
        assert len(copied._table) == 0


def test_eight_threads_share_an_object():
    f, s0, u = problem(length=300)
    auto, wrong = li.Auto(), []

    def work():
        for length in range(150, 300, 10):
            solution = li.solve(f, s0, u[:length], auto, throw=False)
            if not solution.converged:
                wrong.append(length)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@dataclass
class Kernel:
    """One that takes so many seconds by a clock of its own."""

    seconds: float
    spent: list[float] = field(default_factory=list)

    def __call__(self):
        assert not torch.is_grad_enabled()  # a timing leaves no graph
        self.spent.append(self.seconds)


@dataclass(frozen=True)
class Both:
    """What recurrence and kernel have spent."""

    counted: Counted
    kernel: Kernel

    def __call__(self, like):
        return self.counted.spent + sum(self.kernel.spent)


@pytest.mark.parametrize(("seconds", "chosen"), [(5.0, True), (5000.0, False)])
def test_beside_a_kernel_the_faster_one_answers(seconds, chosen):
    f, s0, u = problem(gain=0.3, length=2000)
    counted, kernel = Counted(f, row=0.0001), Kernel(seconds)
    auto = li.Auto(clock=Both(counted, kernel))
    options = LoopOptions(1e-10, 1e-10, 2000, 2000)
    for _ in range(9):
        state = auto.beside("a kernel", kernel).run(Problem(counted, s0, u, 2000), u * 0, options, ())
        if not chosen:
            torch.testing.assert_close(state.states[1:], loop(f, s0, u), **STATES)
    assert bool((state.result == li.Result.STOPPED).all()) is chosen
    runs = len(kernel.spent)
    auto.beside("a kernel", kernel).run(Problem(counted, s0, u, 2000), u * 0, options, ())
    assert len(kernel.spent) == runs  # once all were tried it is not timed any more


def test_what_cannot_work_is_refused():
    f, s0, u = problem()
    with pytest.raises(TypeError, match=r"Unroll\(\)"):
        li.solve(f, s0, u, li.Auto(), adjoint=li.Unroll())
    for wrong in li.Newton(), (), (3,):
        with pytest.raises(TypeError, match="`contenders` must be a tuple of methods"):
            li.Auto(wrong)
    with pytest.raises(ValueError, match="`budget` must lie in"):
        li.Auto(budget=0)
    with pytest.raises(TypeError, match="`clock` must be a function"):
        li.Auto(clock=3)


def test_layers_with_a_strategy_answer_as_torch_does_and_do_not_warn():
    theirs = torch.nn.GRU(3, 6, **F64)
    ours = li.nn.GRU(3, 6, method=li.Auto(), **F64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(400, 2, 3, **F64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", li.PerformanceWarning)
        for _ in range(3):
            torch.testing.assert_close(ours(x)[0], theirs(x)[0], **STATES)
