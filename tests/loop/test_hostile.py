"""Functions, methods and observers that break their contract: an error that says so, or the right states."""

import pickle
import re
import threading
from dataclasses import dataclass

import pytest
import torch
from catalogue import loop

import lds_iter as li

S0 = torch.zeros(3)
U = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


def f(s, u):
    return torch.tanh(0.5 * s + u)


def attend(s, u):
    """Causal attention over time: no row knows of a later one, and all know of the earlier ones."""
    rows = 2 * s.flatten(1)
    weights = (rows @ rows.T).masked_fill(torch.ones(len(s), len(s)).triu(1).bool(), -torch.inf).softmax(-1)
    return torch.tanh(0.5 * (weights @ rows).view_as(s) + u)


class Late:
    """`f`, and something else from some call on, or with more rows than the check before the first iteration has."""

    def __init__(self, other, calls=None):
        self.other, self.most, self.calls = other, calls, 0

    def __call__(self, s, u):
        self.calls += 1
        late = len(s) > 3 if self.most is None else self.calls > self.most
        return self.other(s, u) if late else f(s, u)


def zeroing(s, u):
    value = f(s, u)
    s.data.zero_()
    return value


MIXING = {
    "causal attention": attend,
    "cumulated inputs": lambda s, u: f(s, u.cumsum(0)),
    "cumulated states": lambda s, u: torch.tanh(0.5 * s + 0.1 * s.cumsum(0) + u),
    "the row before": lambda s, u: f(s, u) + 0.3 * (s - s.roll(1, 0)),
    "a mean over time": lambda s, u: f(s, u) + 0.3 * s.mean(0),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", MIXING)
def test_mixed_time_steps_are_found(name, late):
    with pytest.raises(ValueError, match="mixes time steps"):
        li.solve(Late(MIXING[name]) if late else MIXING[name], S0, U)


@pytest.mark.parametrize("batch", [(3,), (2, 2)])
def test_mixed_batch_elements_are_found(batch):
    s0, u = torch.zeros(*batch, 3), torch.randn(9, *batch, 3)
    with pytest.raises(ValueError, match="mixes the elements of a batch"):
        li.solve(lambda s, u: f(s, u) + 0.3 * s.mean(-2, keepdim=True), s0, u)


WRITING = {
    "in place": lambda s, u: s.mul_(0.5).add_(u).tanh(),
    "by .data": lambda s, u: s.data.mul_(0.5).add_(u).tanh(),
    "into its inputs": lambda s, u: u.add_(0.5 * s).tanh(),
    "into the data of its inputs": lambda s, u: u.data.add_(0.5 * s).tanh(),
    "late, in place": Late(lambda s, u: s.mul_(0.5).add_(u).tanh()),
    "late, by .data": Late(zeroing),
    "late, into its inputs": Late(lambda s, u: u.add_(0.5 * s).tanh()),
}


@pytest.mark.parametrize("method", [li.Jacobi(), li.Newton()], ids=repr)
@pytest.mark.parametrize("name", WRITING)
def test_writing_into_arguments_is_found(name, method):
    with pytest.raises(ValueError, match=r"`f`.*(in place|writes into)"):
        li.solve(WRITING[name], S0, U.clone(), method)


OTHER_KINDS = {
    "one column": lambda s, u: f(s, u)[..., :1],
    "a row less": lambda s, u: f(s, u)[:-1],
    "a dimension more": lambda s, u: f(s, u).unsqueeze(0),
    "another dtype": lambda s, u: f(s, u).double(),
    "None": lambda s, u: None,
    "a number": lambda s, u: 0.5,
    "a tuple": lambda s, u: (f(s, u),),
}


@pytest.mark.parametrize("calls", [2, 3, 4, 7])
@pytest.mark.parametrize("name", OTHER_KINDS)
@pytest.mark.parametrize("method", [li.Jacobi(), li.QuasiNewton()], ids=repr)
def test_another_shape_or_dtype_at_a_later_call_is_named(name, calls, method):
    with pytest.raises(ValueError, match=r"`f` must return the same kind of tensor at every call"):
        li.solve(Late(OTHER_KINDS[name], calls), S0, U, method)


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_the_plain_loop_does_not_broadcast_what_comes_later(name):
    for context in torch.no_grad, torch.enable_grad:
        with context(), pytest.raises(ValueError, match="at every call"):
            li.sequential(Late(OTHER_KINDS[name], 5), S0, U)


def test_random_functions_are_found_early_and_late():
    def noisy(size):
        return lambda s, u: f(s, u) + size * torch.randn_like(s)

    for function in noisy(1e-6), Late(noisy(1e-6), 6):  # seen at the generator, however little it is
        with pytest.raises(ValueError, match="`f` draws random numbers"):
            li.solve(function, S0, U, li.Jacobi())
    with pytest.raises(ValueError, match="it is random"):  # seen at the values
        li.solve(Late(noisy(1.0)), S0, U, li.Jacobi())


def test_a_function_that_counts_its_calls_is_found():
    calls = []

    def counting(s, u):
        calls.append(0)
        return f(s, u) + 0.1 * len(calls)

    with pytest.raises(ValueError, match="`f` gave different values for the same row"):
        li.solve(counting, S0, U, li.Jacobi())


def test_a_static_output_is_found():
    buffers = {}

    def captured(s, u):
        return buffers.setdefault(s.shape[1:], torch.empty(40, 3))[: len(s)].copy_(f(s, u))

    for run in li.solve, li.sequential:
        with pytest.raises(ValueError, match="`f` returns the same memory at every call"):
            run(captured, S0, U)


@dataclass(frozen=True)
class OwnLinearize:
    """Derivatives of its own, of some other value."""

    derivatives: object

    def __call__(self, s, u):
        return f(s, u)

    def linearize(self, s, u):
        return self.derivatives(f(s, u), len(s))


def elementwise(value, slope):
    return li.ElementwiseDerivatives(value, slope)


LYING = {
    "another value": (lambda value, n: elementwise(value + 0.3, 0 * value), "is not `f"),
    "another value late": (lambda value, n: elementwise(value + 0.3 * (n > 3), 0 * value), "its `linearize`"),
    "another shape": (lambda value, n: elementwise(value[..., :1], value[..., :1]), "is not `f"),
    "another shape late": (
        lambda value, n: elementwise(value[: n if n < 4 else 1], value[: n if n < 4 else 1]),
        "kind",
    ),
    "a slope of another shape": (lambda value, n: elementwise(value, value[..., :1]), "`slope` must have the shape"),
    "None": (lambda value, n: None, "`linearize` of `f` must return"),
    "None late": (lambda value, n: elementwise(value, 0 * value) if n < 4 else None, "`f.linearize"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_linearize_of_another_recurrence_is_found(name):
    derivatives, message = LYING[name]
    with pytest.raises((ValueError, TypeError), match=message):
        li.solve(OwnLinearize(derivatives), S0, U, li.QuasiNewton())


@pytest.mark.parametrize("first", [False, True])
def test_a_value_that_is_not_finite_is_a_result_and_no_crash_of_the_checks(first):
    broken = OwnLinearize(lambda value, n: elementwise(value * torch.nan, 0 * value))
    nan = lambda s, u: f(s, u) * (torch.nan if first else 1) + torch.where(u > 1.5, torch.inf, 0)  # noqa: E731
    solution = li.solve(nan, S0, U.index_fill(0, torch.tensor([7]), 2.0), throw=False)
    assert solution.result == li.Result.NONFINITE
    with pytest.raises(ValueError, match=r"linearize\(s, u\)\.value` is not"):
        li.solve(broken, S0, U)


class Mine(Exception):
    pass


@pytest.mark.parametrize("method", [li.Jacobi(), li.Newton(), li.TrustRegion(li.Newton())], ids=repr)
def test_an_error_of_the_users_own_comes_through_with_its_place(method):
    def raising(s, u):
        raise Mine("mine")

    with pytest.raises(Mine) as caught:
        li.solve(Late(raising, 4), S0, U, method)
    assert caught.value.args == ("mine",)
    assert any("time steps 0 to 15" in note and "`f`" in note for note in caught.value.__notes__)


def test_an_interrupt_keeps_the_states_reached_and_leaves_nothing_behind():
    def interrupted(s, u):
        raise KeyboardInterrupt

    method = li.Jacobi()
    with pytest.raises(KeyboardInterrupt) as caught:
        li.solve(Late(interrupted, 6), S0, U, method)
    solution = caught.value.solution
    assert int(solution.iterations) >= 3
    torch.testing.assert_close(solution.states[:3], loop(f, S0, U)[:3])
    torch.testing.assert_close(li.solve(f, S0, U, method).states, loop(f, S0, U), rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Answers(li.LDSApproximation):
    """A method that does something with what it is shown."""

    answer: object

    def init(self, guess):
        return None

    def update(self, lin, carry):
        return self.answer(lin), carry


WRITES = {
    "prev": lambda lin: lin.prev.zero_(),
    "value": lambda lin: lin.value.zero_(),
}


@pytest.mark.parametrize("window", [None, 5])
def test_a_method_that_returns_what_it_was_shown_gets_to_the_loop_even_so(window):
    for answer in (lambda lin: lin.prev), (lambda lin: lin.value), (lambda lin: lin.residual), (lambda lin: lin.states):
        solution = li.solve(f, S0, U, Answers(answer), window=window)
        # a residual of 1e-5, and errors that at most double
        torch.testing.assert_close(solution.states, loop(f, S0, U), rtol=4e-5, atol=4e-5)


@pytest.mark.parametrize("name", WRITES)
def test_a_method_that_writes_into_what_it_was_shown_is_named(name):
    with pytest.raises(ValueError, match=r"`Answers\.update` writes into"):
        li.solve(f, S0, U, Answers(WRITES[name]))


def test_an_inner_update_leaves_the_residual_of_the_outer_method_alone():
    @dataclass(frozen=True)
    class Gated(li.LDSApproximation):
        method: li.LDSApproximation

        def init(self, guess):
            return self.method.init(guess)

        def update(self, lin, carry):
            before = lin.residual.clone()
            d, carry = self.method.update(lin, carry)
            assert torch.equal(before, lin.residual)
            assert d.untyped_storage().data_ptr() != lin.residual.untyped_storage().data_ptr()
            return torch.where(d.abs() > 5, lin.residual, d), carry

    for method in li.Newton(), li.Picard(), li.Jacobi(), li.QuasiNewton(), li.Chord(li.Newton(), 2):
        for window in None, 5:
            assert li.solve(f, S0, U, Gated(method), window=window).converged


def test_a_carry_that_keeps_the_guess_keeps_its_values():
    same = []

    @dataclass(frozen=True)
    class Remembers(li.LDSApproximation):
        def init(self, guess):
            return None

        def update(self, lin, carry):
            if carry is not None:
                same.append(torch.equal(*carry))
            return lin.scan(li.Diagonal(lin.diagonal()), lin.residual), (lin.prev, lin.prev.clone())

    for window in None, 5:
        li.solve(f, S0, U, Remembers(), window=window)
    assert same
    assert all(same)


def test_a_callback_gets_copies():
    seen = []
    solution = li.solve(f, S0, U, li.Jacobi(), callback=seen.append)
    assert [int(progress.iterations) for progress in seen] == list(range(int(solution.iterations) + 1))

    def spoil(progress):
        for field in progress.result, progress.accepted, progress.iterations, progress.residual, progress.resets:
            field.fill_(0)
        progress.states.zero_()
        return torch.tensor(False)

    spoiled = li.solve(f, S0, U, li.Jacobi(), callback=spoil, stop=spoil)
    assert torch.equal(spoiled.states, solution.states)
    assert torch.equal(spoiled.iterations, solution.iterations)


@pytest.mark.parametrize("method", [li.Newton(), li.QuasiNewton(), li.TrustRegion(li.Newton()), li.Auto()], ids=repr)
def test_eight_threads_at_once(method):
    """Torch's forward mode belongs to the process, and `Auto` remembers."""
    wrong, rounds = [], 6

    def work(seed):
        u = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
        want = loop(f, torch.zeros(4), u)
        try:
            for _ in range(rounds):
                states = li.solve(f, torch.zeros(4), u, method).states
                torch.testing.assert_close(states, want, rtol=4e-5, atol=4e-5)  # a residual of 1e-5, twice amplified
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_thread_that_draws_random_numbers_is_not_taken_for_f():
    """Threads share the generator, whose state is looked at first."""
    done, own = threading.Event(), torch.Generator()

    def draw():
        while not done.is_set():
            torch.rand(1)

    def seeded(s, u):
        return f(s, u) + torch.rand(3, generator=own.manual_seed(0))

    drawing = threading.Thread(target=draw)
    drawing.start()
    try:
        for _ in range(8):
            assert li.solve(f, S0, U).converged
            assert li.solve(seeded, S0, U, li.Jacobi()).converged
            with pytest.raises(ValueError, match="draws random numbers"):
                li.solve(lambda s, u: f(s, u) + 1e-6 * torch.randn_like(s), S0, U, li.Jacobi())
    finally:
        done.set()
        drawing.join()


def test_gradients_in_eight_threads_at_once():
    weight, wrong = torch.tensor(0.5, requires_grad=True), []

    def g(s, u):
        return torch.tanh(weight * s + u)

    def work(seed):
        u = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
        try:
            for _ in range(4):
                (got,) = torch.autograd.grad(li.solve(g, torch.zeros(4), u).states.sum(), weight)
                (want,) = torch.autograd.grad(loop(g, torch.zeros(4), u).sum(), weight)
                torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)  # float32, and a residual of 1e-5
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_failed_solve_crosses_processes():
    with pytest.raises(li.SolveError) as caught:
        li.solve(f, S0, U, li.Jacobi(), max_iters=1)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert torch.equal(again.solution.states, caught.value.solution.states)


def test_an_error_in_the_evaluation_for_the_record_has_its_place_too():
    def raising(s, u):
        raise Mine("mine")

    for calls in range(3, 9):  # after the checks: each iteration evaluates `f` for itself, and once more for the record
        with pytest.raises(Mine) as caught:
            li.solve(Late(raising, calls), S0, U, li.Jacobi(), record=True)
        (note,) = caught.value.__notes__
        assert re.search(r"inside of `f`, at time steps \d+ to 15 .*, iteration \d", note)
