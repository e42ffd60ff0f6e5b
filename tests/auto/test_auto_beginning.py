"""What `Auto` begins with: at once where that is certain to pay, by what a few rows tell, or with torch's kernel."""

import math
from dataclasses import dataclass

import pytest
import torch
from catalogue import tanh_rnn
from clocks import Ticks
from compiled_cells import COMPILED

import lds_iter as li
from lds_iter.auto.arms import Outside
from lds_iter.auto.costs import Costs
from lds_iter.auto.course import Course
from lds_iter.auto.estimates import EXPANDS, FORGETS, STRUGGLE, expected, reliable
from lds_iter.auto.head_start import SMALL, head_start
from lds_iter.auto.looking import look_at_rows
from lds_iter.loop.state import Problem, Rules
from lds_iter.nn._kernel import Kernel
from lds_iter.nn._stopped import UNTIMED
from lds_iter.nn._weights import layer_weights

F64 = {"dtype": torch.float64}
compiled = pytest.mark.skipif(not COMPILED, reason="needs a C++ compiler, whose cells are what begins at once")


@dataclass(frozen=True)
class Calls(li.auto.AbstractClock):
    """Time is what the recurrence has spent: a unit a call, and a thousandth a row."""

    spent: list[float]

    def now(self, like):
        return self.spent[0]


def counted(f, **attributes):
    """`f`, its costs, and an `Auto` that goes by them."""
    spent = [0.0]

    def g(s, u):
        spent[0] += 1.0 + 0.001 * s.shape[0]
        return f(s, u)

    for name, value in attributes.items():
        setattr(g, name, value)
    return g, spent, li.Auto(clock=Calls(spent))


def course_of(f, width=4, rows=64, **options):
    """What is known after a look at some rows."""
    u = torch.randn(1000, width, **F64)
    problem = Problem(f, torch.zeros(width, **F64), u, 1000)
    course = Course(li.Auto(), problem, Rules(0.0, 1e-10, 1000, 1000, False, ()), None, Costs(), **options)
    look_at_rows(course, torch.zeros(rows, width, **F64), u[:rows])
    return course


@compiled
def test_small_states_with_compiled_iterations_begin_at_once():
    torch.manual_seed(0)
    f, auto = li.nn.GRURecurrence.from_module(torch.nn.GRU(3, 8)), li.Auto(clock=Ticks([]))
    u = f.inputs(torch.randn(1000, 3).detach())
    solution = li.solve(f, torch.zeros(8), u, auto)
    (decision,) = solution.decisions
    assert (decision.choice, decision.row) == ("Newton()", 0)
    assert "its iterations are compiled" in decision.why
    assert decision.projected is None
    assert "to go" not in str(decision)
    (costs,) = auto.costs.kinds.values()
    assert costs.call is None
    assert costs.step is None
    assert costs.known("Newton()", 1000).iterations == int(solution.iterations)
    plain = li.solve(f, torch.zeros(8), u, li.Newton())
    assert int(solution.iterations) == int(plain.iterations)
    assert torch.equal(solution.states, plain.states)
    # By this clock the first solve took a second, as every stretch of time does: nothing can be expected to beat it.
    assert "the last one took" in li.solve(f, torch.zeros(8), u, auto).decisions[-1].why
    assert costs.step is not None  # the second solve measures what later ones compare with


@compiled
@pytest.mark.parametrize("gain", [10.0, 20.0])
def test_a_head_start_that_leads_nowhere_is_a_few_iterations(gain):
    torch.manual_seed(0)
    module = torch.nn.GRU(3, 8).double().requires_grad_(False)
    module.weight_hh_l0.mul_(gain)
    f = li.nn.GRURecurrence.from_module(module)
    u, s0 = f.inputs(torch.randn(1000, 3, **F64)), torch.zeros(8, **F64)
    solution = li.solve(f, s0, u, li.Auto())
    assert len(solution.decisions) > 1
    assert solution.decisions[1].sweep >= 9
    value = f(torch.cat([s0[None], solution.states[:-1]]), u)
    torch.testing.assert_close(solution.states, value, rtol=1e-9, atol=1e-9)  # the tolerance is 1e-10


@compiled
def test_wide_states_and_kernels_that_nothing_is_known_of_have_no_head_start():
    def option(width, outside, batch=()):
        f = li.nn.GRURecurrence.from_module(torch.nn.GRU(1, width).requires_grad_(False))
        s0 = torch.zeros(*batch, width)
        problem = Problem(f, s0, f.inputs(torch.zeros(1000, *batch, 1)), 1000)
        course = Course(li.Auto(), problem, Rules(0.0, 1e-5, 1000, 1000, False, ()), outside, Costs())
        return head_start(course, s0[None], problem.inputs_at(0, 1))

    assert option(8, None).arm.name == "Newton()"
    assert option(8, None).unweighed == 9  # twice the usual four, and one that sees the solution
    assert option(math.isqrt(SMALL) + 1, None) is None
    assert option(8, None, batch=(40,)) is None
    assert option(8, Outside(1e-6, "forward")) is not None
    assert option(8, Outside(0.0, "forward")) is None
    assert "Quasi" in option(128, Outside(1e-6, "training", training=True)).arm.name  # less work for wide states


@pytest.mark.parametrize("gain", [0.1, 0.5, 1.0, 2.0])
def test_the_gain_is_the_size_of_the_jacobian(gain):
    torch.manual_seed(0)
    weight = gain * torch.linalg.qr(torch.randn(4, 4, **F64)).Q
    course = course_of(lambda s, u: s @ weight.T + u)
    # A finite difference of a linear map: nothing but rounding, of 1e-16 over steps of 1e-8.
    assert course.costs.gain == pytest.approx(gain, rel=1e-6)
    assert course.costs.linear


def test_linear_recurrences_are_known_by_two_differences():
    relu = lambda s, u: torch.relu(s @ torch.eye(4, **F64) + u)  # noqa: E731
    cubic = lambda s, u: s - 0.01 * s**3 + u  # noqa: E731
    for bent in tanh_rnn(4, 0.5, seed=0), relu, cubic:
        assert not course_of(bent).costs.linear
    linear = course_of(lambda s, u: 0.9 * s + u)
    newton, quasi, *_ = li.auto.auto.CANDIDATES
    assert expected(linear, newton) == 1
    assert reliable(linear, newton)
    assert not reliable(linear, quasi)


def test_a_linear_recurrence_is_solved_in_one_iteration_beyond_the_budget():
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(5, 5, **F64)).Q
    # An iteration is estimated at 70 calls and more, a tenth of 400 steps at 40.
    g, spent, auto = counted(lambda s, u: s @ weight.T + u)
    u = torch.randn(400, 5, **F64)
    solution = li.solve(g, torch.zeros(5, **F64), u, auto)
    assert solution.decisions[0].choice == "Newton()"
    assert int(solution.iterations) <= 6 + 2  # six steps were timed
    assert spent[0] < 100


def test_what_forgets_fast_may_be_relied_on_and_what_expands_may_not():
    newton, _, _, trusted = li.auto.auto.CANDIDATES
    fast, slow = course_of(tanh_rnn(4, 0.3, seed=0)), course_of(tanh_rnn(4, 0.9, seed=0))
    assert fast.costs.gain < FORGETS < slow.costs.gain < EXPANDS
    assert reliable(fast, newton)
    assert not reliable(fast, trusted)
    assert not reliable(slow, newton)
    wild = course_of(lambda s, u: torch.sin(3 * s) + 0.1 * u)
    assert wild.costs.gain > EXPANDS
    assert expected(wild, newton) == STRUGGLE * newton.expected
    assert expected(wild, trusted) == trusted.expected


def test_where_differences_explode_a_trust_region_begins():
    def circle(s, u):  # the phase is kept, the radius drawn to 1 from a point that repels
        radius = s.norm(dim=-1, keepdim=True)
        return s @ turn.T * (2.0 - radius).clamp(min=0.0) + 0.01 * u

    angle = torch.tensor(0.3, **F64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    g, spent, auto = counted(circle)
    s0, u = torch.tensor([1e-3, 0.0], **F64), torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), **F64)
    solution = li.solve(g, s0, u, auto, rtol=0.0, atol=1e-9)
    assert solution.decisions[0].choice.startswith("TrustRegion(")
    assert solution.converged
    assert spent[0] < 4000


def test_a_kernel_of_many_operations_has_a_least_and_one_of_one_operation_has_not():
    for kind, known in (torch.nn.GRU, True), (torch.nn.RNN, True), (torch.nn.LSTM, False):
        module = kind(3, 16)
        kernel = Kernel(module, layer_weights(module, 0, False))
        assert (kernel.least(1e-6, training=False) > 0) is known
        assert kernel.least(1e-6, training=True) >= kernel.least(1e-6, training=False)
        onward = Kernel(module, {name: weight.to("meta") for name, weight in kernel.weights.items()})
        assert onward.least(1e-6, training=False) == 0


def test_what_is_not_certain_to_be_faster_torch_answers_and_is_timed_by_that():
    theirs = torch.nn.GRU(3, 160)
    ours = li.nn.GRU(3, 160)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(300, 1, 3)
    with torch.no_grad():
        assert torch.equal(ours(x)[0], theirs(x)[0])
    (solution,) = ours.last_solution
    assert solution.decisions[0].why == UNTIMED
    assert int(solution.evaluations) == 0
    auto = ours._strategy()
    assert len(auto.costs.kernels) == 1
    assert not any(costs.sweeps for costs in auto.costs.kinds.values())


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"num_layers": 3, "bidirectional": True}])
def test_the_first_forward_of_an_lstm_is_torchs_and_times_every_layer(options):
    theirs, ours = torch.nn.LSTM(3, 8, **options), li.nn.LSTM(3, 8, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(300, 300, 3) if "batch_first" in options else torch.randn(300, 2, 3)
    with torch.no_grad():
        (expected_output, expected_states), (output, states) = theirs(x), ours(x)
    assert torch.equal(output, expected_output)
    assert all(torch.equal(a, b) for a, b in zip(states, expected_states, strict=True))
    assert ours.last_solution == ()
    kernels = ours._strategy().costs.kernels
    assert len(kernels) == (1 if theirs.num_layers == 1 else 2)  # of all later layers one shape
    with torch.no_grad():
        ours(x)
    assert len(ours.last_solution) == (1 if theirs.num_layers == 1 else 6)
    assert len(ours._strategy().costs.kernels) == len(kernels)  # known already: nothing more was timed


@pytest.mark.parametrize(("gain", "looked"), [(1.0, True), (4.0, False)])
def test_layers_with_large_weights_are_left_to_torch_without_a_look(gain, looked, monkeypatch):
    looks = []
    monkeypatch.setattr("lds_iter.nn._against.look_at_rows", lambda *rows: looks.append(rows) or look_at_rows(*rows))
    module = torch.nn.GRU(3, 64).requires_grad_(False)
    module.weight_hh_l0.mul_(gain)
    size = Kernel(module, layer_weights(module, 0, False)).size()
    assert size == pytest.approx(gain / 3**0.5, rel=0.05)  # uniform between -1 and 1 over the root of the width
    ours = li.nn.GRU(3, 64)
    ours.load_state_dict(module.state_dict())
    x = torch.randn(300, 1, 3)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], module(x)[0], rtol=1e-3, atol=1e-3)
    assert bool(looks) is looked


@compiled
@pytest.mark.parametrize("training", [False, True])
def test_what_solved_the_first_forward_solves_the_next(training):
    ours = li.nn.GRU(3, 8, method=li.Auto(clock=Ticks([])))
    x = torch.randn(4000, 1, 3)
    whys = []
    for _ in range(3):
        with torch.set_grad_enabled(training):
            ours(x)
        (solution,) = ours.last_solution
        assert solution.converged  # by this clock a solve takes a second, and 32 steps of the kernel a quarter
        whys.append(solution.decisions[-1].why)
    assert "its iterations are compiled" in whys[0]
    assert all("the last one took" in why for why in whys[1:])
    assert len(ours.method.costs.kernels) == 1  # timed after the first


def known(g, s0, u, auto, **figures):
    """What the object knows of a problem before it has seen it."""
    costs = auto.costs.of(Problem(g, s0, u, len(u)), None)
    costs.step, costs.call, costs.picard = 1.0, 1.0, math.inf
    for name, figure in figures.items():
        setattr(costs, name, figure)
    return costs


def test_what_cannot_be_repeated_is_forgotten():
    g, spent, auto = counted(tanh_rnn(4, 1.2, seed=0))
    s0, u = torch.zeros(4, **F64), torch.randn(400, 4, generator=torch.Generator().manual_seed(0), **F64) / 5
    costs = known(g, s0, u, auto, row=0.001)
    costs.ended("Newton()", 64, 20, 40.0)  # as if windows of 64 rows had solved this, in a tenth of the steps
    solution = li.solve(g, s0, u, auto)
    assert "the last one took 20 iterations" in solution.decisions[0].why
    assert len(solution.decisions) > 1  # something else took over
    assert costs.known("Newton()", 64) is None
    assert spent[0] < 2 * 401


def test_unspent_budgets_find_out_what_an_estimate_hides():
    g, spent, auto = counted(tanh := tanh_rnn(4, 0.9, seed=0))
    g.linearize = lambda s, u: li.FunctionDerivatives(tanh, s, u)  # costs nothing, by the clock
    auto = li.Auto(candidates=(li.auto.Candidate(li.Newton(), expected=20),), clock=auto.clock)
    s0, u = torch.zeros(4, **F64), torch.randn(4000, 4, generator=torch.Generator().manual_seed(0), **F64)
    known(g, s0, u, auto, row=0.0136)  # an iteration is estimated at 300, and twenty of them at more than 4000 steps
    choices = [li.solve(g, s0, u, auto).decisions[-1].choice for _ in range(8)]
    assert choices[0] == "step by step"
    assert choices[-1] != "step by step"
    assert spent[0] < 6 * 4000
