"""Choices with a memory, rules, and what wrong arguments are told."""

import copy
import pickle
import re
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from catalogue import ROTATION, RotationScale, loop, tanh_rnn
from wrapping import OUTER, Complex, Remembering, large

import lds_iter as li
from lds_iter.methods.advice import advice

F64 = torch.float64


def test_a_memory_is_that_of_each_sequence_in_every_wrapper():
    rate = torch.tensor([0.1, 0.6, 0.95], dtype=F64)[:, None]
    s0, u = torch.zeros(3, 4, dtype=F64), torch.randn(40, 3, 4, dtype=F64)
    for name, wrap in OUTER.items():
        method = wrap(Remembering())
        together = li.solve(lambda s, u: rate * torch.sin(s) + u, s0, u, method, window=9)
        for i in range(3):
            alone = li.solve(lambda s, u, i=i: rate[i] * torch.sin(s) + u, s0[i], u[:, i], method, window=9)
            assert alone.iterations == together.iterations[i], name


@dataclass(frozen=True)
class Named(li.TransitionApproximation):
    name: str
    log: list

    def transition(self, lin):
        self.log.append((self.name, int(lin.iteration)))
        return li.Zero()


def test_then_in_second_place_counts_from_when_it_is_entered():
    log = []
    a, b, c = (Named(name, log) for name in "abc")
    f, arguments = (lambda s, u: (0.5 * s + u).tanh()), (torch.zeros(1), torch.randn(60, 1))
    li.solve(f, *arguments, li.Then(a, li.Then(b, c, 4), 3))
    assert log[:9] == [*zip("aaa", range(3), strict=True), *zip("bbbb", range(4), strict=True), ("c", 0), ("c", 1)]
    log.clear()
    li.solve(f, *arguments, li.Switch(a, li.Then(b, c, 4), li.After(5)))
    assert [name for name, _ in log[:11]] == [*"aaaaabbbbcc"]


def test_a_structure_that_cannot_be_kept_in_its_own_scan_says_so(monkeypatch):
    from lds_iter.linear import registry

    monkeypatch.setattr(registry, "_KERNELS", dict(registry._KERNELS))
    calls = []

    @li.register_scan(RotationScale)
    def scan(transition, x, initial):
        calls.append(1)
        li.reference_scan(transition, x, initial)

    f, s0, u = tanh_rnn(4), torch.zeros(4, dtype=F64), torch.randn(20, 4, dtype=F64)
    for method in Complex(), li.Damped(Complex(), 0.1), li.TrustRegion(Complex()), li.Rotated(Complex(), ROTATION):
        calls.clear()
        assert li.solve(f, s0, u, method).iterations <= len(calls)
    with pytest.warns(li.PerformanceWarning, match="registered for RotationScale is not used where .* mixed"):
        li.solve(f, s0, u, li.Where(large, Complex(), li.QuasiNewton()))


# Rules


def said(rule, **rows):
    ask = li.methods.asked(rule)
    length = len(next(iter(rows.values())))
    return [ask(SimpleNamespace(**{name: row[t] for name, row in rows.items()})).tolist() for t in range(length)]


def test_rules_combine():
    residual = torch.tensor([[2.0], [0.4], [0.4], [0.4], [0.1]])
    iterations = torch.arange(5)[:, None]
    below, after = li.Below(0.5), li.After(3)
    assert said(below & after, residual=residual, iterations=iterations) == [[False]] * 3 + [[True]] * 2
    assert said(below | after, residual=residual, iterations=iterations) == [[False]] + [[True]] * 4
    assert said(~below, residual=residual) == [[True]] + [[False]] * 4
    assert said(li.Stalled(2) & below, residual=residual) == [[False]] * 3 + [[True]] + [[False]]
    assert said(li.Elapsed(1e9) | ~li.Elapsed(1e9), residual=residual) == [[True]] * 5
    update = torch.tensor([[[1.0]], [[1e-4]]])
    assert said(li.SmallUpdate(1e-3), update=update[:, None]) == [[False], [True]]


@pytest.mark.parametrize("rule", [li.Below(1e-2), li.After(3), li.SmallUpdate(1e-2), li.Stalled(2), li.Elapsed(0.0)])
def test_one_rule_stops_and_switches(rule):
    f, s0, u = tanh_rnn(4), torch.zeros(3, 4, dtype=F64), torch.randn(60, 3, 4, dtype=F64)
    stopped = li.solve(f, s0, u, li.Jacobi(), stop=rule & li.After(1), max_iters=60)
    assert (stopped.result == li.Result.STOPPED).any() or isinstance(rule, li.Stalled)
    again = li.solve(f, s0, u, li.Jacobi(), stop=rule & li.After(1))
    assert torch.equal(again.iterations, stopped.iterations)
    switched = li.solve(f, s0, u, li.Switch(li.Jacobi(), li.Newton(), rule))
    torch.testing.assert_close(switched.states, loop(f, s0, u), rtol=0, atol=1e-8)


# How methods are shown, compared and kept


@pytest.mark.parametrize(
    "text",
    [
        "Newton()",
        "TrustRegion(Newton(), k=0.5)",
        "Then(Jacobi(), Damped(Newton(), 0.1), 16)",
        "LevenbergMarquardt(30.0, form=Smoother())",
        "QuasiNewton(diagonal=Hutchinson(probes=2))",
        "Switch(Jacobi(), Chord(Newton(), 3), Stalled(patience=5))",
    ],
)
def test_a_short_text_makes_the_method_again(text):
    method = eval(text, vars(li).copy())
    assert repr(method) == text
    for other in copy.deepcopy(method), pickle.loads(pickle.dumps(method)):
        assert other == method
        assert hash(other) == hash(method)


def test_methods_with_tensors_and_modules_compare_by_value():
    @dataclass(frozen=True)
    class Learned(li.TransitionApproximation):
        module: torch.nn.Module

        def transition(self, lin):
            return li.Diagonal(self.module(lin.prev))

    turned = li.Rotated(li.Newton(), ROTATION)
    assert pickle.loads(pickle.dumps(turned)) == turned == copy.deepcopy(turned)
    assert hash(copy.deepcopy(turned)) == hash(turned)
    assert turned != li.Rotated(li.Newton(), ROTATION.flip(0))
    assert repr(turned) == "Rotated(Newton(), <4 x 4 float64>)"
    module = torch.nn.Linear(2, 2)
    assert Learned(module) == Learned(copy.deepcopy(module))
    assert Learned(module) != Learned(torch.nn.Linear(2, 2))


# What wrong arguments are told


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: li.TrustRegion(li.Newton(), relx=2), "`TrustRegion` has no argument `relx`. Did you mean `relax`?"),
        (lambda: li.Newton(window=3), "`Newton` has no argument `window`. It takes: nothing."),
        (lambda: li.Hutchinson(probs=3), "Did you mean `probes`?"),
        (lambda: li.BlockNewton("2"), "`size` must be a whole number, 1 or more, got '2'"),
        (lambda: li.BlockNewton(True), "`size` must be a whole number, 1 or more, got True"),
        (lambda: li.Hutchinson(1.5), "`probes` must be a whole number, 1 or more, got 1.5"),
        (lambda: li.Hutchinson(1, "a"), "`seed` must be a whole number, 0 or more, got 'a'"),
        (lambda: li.QuasiNewton(li.Hutchinson), "Type `Hutchinson()`."),
        (lambda: li.Damped(li.Newton(), "x"), "`k` must lie in [0, 1], got 'x'"),
        (lambda: li.Damped(li.Newton(), None), "`k` must lie in [0, 1], got None"),
        (lambda: li.Clipped(li.Newton(), "x"), "`bound` must be a number of at least 0, got 'x'"),
        (lambda: li.TrustRegion(li.Newton(), k="x"), "`k` must lie in (0, 0.95], got 'x'. It is where"),
        (lambda: li.TrustRegion(li.Newton(), relax=None), "`relax` must be a number of at least 0, got None"),
        (lambda: li.Below(None), "`residual` must be a number of at least 0, got None"),
        (lambda: li.Below(float("nan")), "`residual` must be a number of at least 0, got nan"),
        (lambda: li.Stalled(3, "x"), "`factor` must lie in (0, 1], got 'x'"),
        (lambda: li.Rotated(li.Newton(), torch.ones(2, 2, dtype=torch.int64)), "`q` must be float32 or float64"),
        (lambda: li.Rotated(li.Newton(), torch.ones(0, 0)), "`q` must be a square matrix"),
        (lambda: li.Rotated(li.Newton(), torch.eye(2, device="meta")), "`q` must be a dense tensor"),
        (lambda: li.LowPrecision(li.Newton(), torch.float8_e4m3fn), "`dtype` must be a floating-point torch.dtype"),
        (lambda: li.LevenbergMarquardt(1e-40), "`sigma2` must be a finite number above 0, got 1e-40"),
        (lambda: li.TransitionApproximation(), "`TransitionApproximation` must define `transition(self, lin)`"),
    ],
)
def test_constructors_check_and_suggest(build, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        build()


def test_what_goes_outermost_is_said():
    with pytest.raises(TypeError, match="must be an instance of StatefulTransition") as caught:
        li.Damped(li.TrustRegion(li.Newton()), 0.1)
    assert "wrap Newton() and put TrustRegion around that" in caught.value.__notes__[0]


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert li.Chord(li.Newton(), numpy.int64(3)) == li.Chord(li.Newton(), 3)
    assert repr(li.Damped(li.Newton(), numpy.float32(0.5))) == "Damped(Newton(), 0.5)"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda lin: None, "must choose a transition such as li.Dense(matrices), got None"),
        (lambda lin: lin.jacobian(), "Say what structure it has: `li.Dense(a)`"),
        (lambda lin: lin.diagonal(), "Say what structure it has: `li.Diagonal(a)`"),
        (lambda lin: li.Dense(lin.diagonal()), "Dense with tensors of shape (9, 2, 4, 4) for these 9 rows"),
        (lambda lin: li.Dense(lin.jacobian()[0]), "Dense with tensors of shape (9, 2, 4, 4)"),
        (lambda lin: li.Diagonal(lin.diagonal()[:1]), "Diagonal with tensors of shape (9, 2, 4)"),
        (lambda lin: li.Diagonal(lin.diagonal()[0, 0]), "Diagonal with tensors of shape (9, 2, 4)"),
        (lambda lin: li.Dense(lin.jacobian().float()), "with tensors of torch.float64 on cpu like `lin.residual`"),
        (lambda lin: li.ScaledIdentity(torch.tensor(0.5)), "ScaledIdentity with tensors of shape (9, 2, 1)"),
    ],
)
def test_what_is_no_transition_of_these_rows_is_told_so(answer, message):
    class Own(li.TransitionApproximation):
        def transition(self, lin):
            return answer(lin)

    for method in Own(), li.Damped(Own(), 0.1), li.TrustRegion(Own()):
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            li.solve(tanh_rnn(4), torch.zeros(2, 4, dtype=F64), torch.ones(9, 2, 4, dtype=F64), method)


@pytest.mark.parametrize("answer", [True, 0.5, torch.ones(9, 2, dtype=torch.bool), torch.ones(9, 2, 1)], ids=str)
def test_where_wants_a_bool_for_each_row(answer):
    method = li.Where(lambda _: answer, li.Newton(), li.Jacobi())
    with pytest.raises(TypeError, match=re.escape("must return a bool for each row, torch.bool (9, 2, 1), got")):
        li.solve(tanh_rnn(4), torch.zeros(2, 4, dtype=F64), torch.ones(9, 2, 4, dtype=F64), method)


@pytest.mark.parametrize(
    "method",
    [
        li.Newton(),
        li.TrustRegion(li.Newton()),
        li.Chord(li.Newton(), 3),
        li.Switch(li.Jacobi(), li.Newton(), li.Below(0.1)),
        li.LevenbergMarquardt(30.0),
        li.Rotated(li.QuasiNewton(), ROTATION),
        Remembering(),
    ],
    ids=repr,
)
def test_advice_can_be_typed(method):
    found = advice(method)
    assert len(found) >= 2
    f, s0, u = tanh_rnn(4), torch.zeros(4, dtype=F64), torch.randn(30, 4, dtype=F64)
    for _, text in found:
        other = eval(text, {"li": li})
        assert other != method
        assert li.solve(f, s0, u, other).converged


# A trust region does not stand still where Newton moves


def drift(noise):
    return (lambda s, u: s + 0.1 + noise * u), torch.zeros(1, dtype=F64)


def kuramoto(coupling, units=6):
    frequency, start = torch.randn(units, dtype=F64), 6 * torch.rand(units, dtype=F64)

    def f(s, u):
        return s + 0.05 * (frequency + coupling * torch.sin(s.unsqueeze(-2) - s.unsqueeze(-1)).mean(-1) + 0 * u)

    return f, start


def van_der_pol(step):
    def f(s, u):
        x, v = s[..., 0], s[..., 1]
        return torch.stack([x + step * v, v + step * ((1 - x * x) * v - x) + 0 * u[..., 0]], -1)

    return f, torch.tensor([2.0, 0.0], dtype=F64)


def logistic(step):
    def f(s, u):
        velocity = lambda y: y * (1 - y)  # noqa: E731
        one = velocity(s)
        two = velocity(s + step / 2 * one)
        three = velocity(s + step / 2 * two)
        return s + step / 6 * (one + 2 * two + 2 * three + velocity(s + step * three)) + 0 * u

    return f, torch.tensor([0.1], dtype=F64)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("drift", 200),
        ("drift", 4096),
        ("noisy drift", 4096),
        ("weak", 400),
        ("weak", 600),
        ("coupled", 600),
        ("coupled", 4096),
        ("oscillator", 400),
        ("oscillator", 512),
        ("oscillator", 4096),
        ("logistic", 512),
        ("logistic", 4096),
    ],
)
def test_a_trust_region_takes_at_most_three_times_newtons_iterations(name, length):
    f, s0 = {
        "drift": lambda: drift(0.0),
        "noisy drift": lambda: drift(0.05),
        "weak": lambda: kuramoto(0.3),
        "coupled": lambda: kuramoto(1.0, units=20),
        "logistic": lambda: logistic(10 / length),
        "oscillator": lambda: van_der_pol(10 / length),
    }[name]()
    u = torch.randn(length, 1, dtype=F64)
    newton, trusted = (int(li.solve(f, s0, u, m).iterations) for m in (li.Newton(), li.TrustRegion(li.Newton())))
    assert trusted <= 3 * newton


def test_a_trust_region_has_a_gradient_under_unroll():
    """Updates of 0 are not divided by."""
    w = torch.tensor(0.5, dtype=F64, requires_grad=True)
    s0, u = torch.zeros(3, dtype=F64), torch.randn(16, 3, dtype=F64)
    f = lambda s, u: torch.tanh(w * s + u)  # noqa: E731
    found = li.solve(f, s0, u, li.TrustRegion(li.Newton()), adjoint=li.Unroll()).states.sum()
    truth = li.sequential(f, s0, u).sum()
    (ours,), (theirs,) = torch.autograd.grad(found, w), torch.autograd.grad(truth, w)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)  # as far as the residual of 1e-10 goes
