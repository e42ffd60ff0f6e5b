"""The checks that users are given find the mistakes that users make, name them, and say what to change."""

import pickle
from dataclasses import dataclass

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, SCANS_IN_BFLOAT16, STRUCTURES, RotationScale, transitions

import lds_iter as li
from lds_iter.testing import check_derivatives, check_method, check_recurrence, check_scan, check_transition

F64 = torch.float64


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_library_keeps_every_law(name):
    found = check_method(METHODS[name], mates=None if name in SCANS_IN_BFLOAT16 else 1e-9)
    assert len(found.laws) >= 6


@pytest.mark.parametrize("name", ["random", "poison"])
def test_a_useless_method_keeps_the_laws_too(name):
    assert check_method(ADVERSARIES[name]).passed


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("shape", [(1, 2), (2, 3, 4), (9, 2, 2, 4), (16, 4)], ids=str)
def test_every_structure_and_its_scan_keep_every_law(name, shape):
    transition = transitions(shape[0], shape[1:-1], shape[-1])[name]
    like = torch.zeros(shape, dtype=F64)
    check_transition(transition, like)
    check_scan(transition, like)
    check_scan(transition, like, li.reference_scan)


# Mistakes in methods


def broken(check, *given, **options):
    """What a check finds, and that it raises an error that says so unless told not to."""
    found = check(*given, **options, throw=False)
    with pytest.raises(AssertionError) as caught:
        check(*given, **options)
    for finding in caught.value.findings.broken:
        assert finding.cure.split()[0] in str(caught.value)
    assert str(pickle.loads(pickle.dumps(li.testing.BrokenLaws(found)))) == str(li.testing.BrokenLaws(found))
    return [finding.law for finding in found.broken], str(found)


class ByBatch(li.TransitionApproximation):
    """Shrinks by a norm over the whole batch."""

    def transition(self, lin):
        return li.Diagonal(lin.diagonal() / (1 + lin.residual.abs().max()))


class ByTime(li.TransitionApproximation):
    """Shrinks by a norm over the rows that happen to be at hand."""

    def transition(self, lin):
        return li.Diagonal(lin.diagonal() / (1 + lin.prev.abs().amax(0) + len(lin.residual)))


class Hoards(li.TransitionApproximation):
    """Keeps a count in itself."""

    calls = 0

    def transition(self, lin):
        type(self).calls += 1
        return li.ScaledIdentity(0.1 / type(self).calls)


@dataclass(frozen=True)
class States(li.LDSApproximation):
    """Returns states in place of their update."""

    def init(self, guess):
        return None

    def update(self, lin, carry):
        return lin.states + lin.scan(li.Diagonal(lin.diagonal()), lin.residual), carry


class OfOneRecurrence(li.TransitionApproximation):
    """Knows the inputs of one problem, which the adjoint does not have."""

    def transition(self, lin):
        return li.Diagonal(0.1 * torch.cos(lin.prev + lin.inputs))


MISTAKES = {
    "batch": (ByBatch(), "keeps the elements of a batch apart", "never over the batch"),
    "time": (ByTime(), "chooses row by row", "belongs into a li.StatefulTransition"),
    "itself": (Hoards(), "keeps nothing in itself", "it returns as its carry"),
    "inputs": (OfOneRecurrence(), "solves its adjoint", "`for_adjoint` returns a method for any linear recurrence"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_method_is_named(name):
    method, law, cure = MISTAKES[name]
    laws, text = broken(check_method, method)
    assert law in laws
    assert cure in " ".join(text.split())


def test_a_method_that_returns_states_keeps_the_laws_and_is_told_so():
    found = check_method(States())
    assert any("`update` returns states in place of the update d" in note for note in found.notes)
    assert not any("of no use" in note for note in check_method(li.Jacobi()).notes)


def test_what_a_method_raises_is_reported_with_its_cause():
    class Nothing(li.TransitionApproximation):
        def transition(self, lin):
            return None

    with pytest.raises(li.testing.BrokenLaws, match="must choose a transition such as") as caught:
        check_method(Nothing())
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_method_for_one_recurrence_is_checked_on_that():
    @dataclass(frozen=True)
    class Exact(li.TransitionApproximation):
        def transition(self, lin):
            return li.Diagonal(0.9 * torch.cos(lin.prev))

    s0, u = torch.zeros(2, 5, dtype=F64), torch.randn(20, 2, 5, dtype=F64)
    assert check_method(Exact(), lambda s, u: 0.9 * torch.sin(s) + u, s0, u, windows=(None, 1, 4), mates=0.0).passed


# Mistakes in structures


@dataclass(frozen=True)
class Swapped(RotationScale):
    """The signs of a product are wrong."""

    def after(self, earlier):
        return Swapped(self.re * earlier.re + self.im * earlier.im, self.re * earlier.im + self.im * earlier.re)

    def transpose(self):
        return Swapped(self.re, -self.im)

    def scaled(self, factor):
        return Swapped(li.linear.times(factor, self.re), li.linear.times(factor, self.im))


@dataclass(frozen=True)
class Same(li.AbstractTransition):
    """Right, but for one operation each below."""

    a: torch.Tensor

    def mv(self, x):
        return self.a * x

    def after(self, earlier):
        return type(self)(self.a * earlier.a)

    def transpose(self):
        return self

    def scaled(self, factor):
        return type(self)(li.linear.times(factor, self.a))


class Unscaled(Same):
    def scaled(self, factor):
        return type(self)(self.a)


class Leaking(Same):
    def scaled(self, factor):
        return type(self)(self.a * factor)


class Writing(Same):
    def mv(self, x):
        return x.mul_(self.a)


class Averaging(Same):
    def mv(self, x):
        return self.a * x.cumsum(0)


class Changing(Same):
    def transpose(self):
        return li.Diagonal(self.a)


class NotItsTranspose(li.Dense):
    def after(self, earlier):
        return NotItsTranspose(self.matrix @ earlier.matrix)

    def transpose(self):
        return self

    def scaled(self, factor):
        return NotItsTranspose(li.linear.times(factor, self.matrix))


LIKE = torch.zeros(9, 2, 4, dtype=F64)
WRONG = {
    "after": (Swapped(*torch.randn(2, 9, 2, 2, dtype=F64)), "after composes, earlier first"),
    "scaled": (Unscaled(torch.randn_like(LIKE)), "scaled multiplies"),
    "zero": (Leaking(torch.randn_like(LIKE)), "a factor of zero gives exact zeros"),
    "writes": (Writing(torch.randn_like(LIKE)), "nothing is written into"),
    "rows": (Averaging(torch.randn_like(LIKE)), "mv is linear and minds its own row"),
    "type": (Changing(torch.randn_like(LIKE)), "operations keep the structure"),
    "transpose": (NotItsTranspose(torch.randn(9, 2, 4, 4, dtype=F64)), "transpose is the adjoint"),
    "shapes": (li.Diagonal(torch.randn(8, 2, 4, dtype=F64)), "shapes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_a_structure_is_named(name):
    transition, law = WRONG[name]
    laws, text = broken(check_transition, transition, LIKE)
    assert law in laws
    assert "What to change:" in text


def test_check_method_finds_a_mistake_in_the_structure_that_it_chooses():
    class Complex(li.TransitionApproximation):
        def transition(self, lin):
            j = lin.block_diagonal(2)
            return Swapped((j[..., 0, 0] + j[..., 1, 1]) / 2, (j[..., 1, 0] - j[..., 0, 1]) / 2)

    laws, _ = broken(check_method, Complex())
    assert "after composes, earlier first" in laws


def test_a_structure_without_scaled_says_so():
    @dataclass(frozen=True)
    class Short(li.AbstractTransition):
        def mv(self, x):
            return x

        def after(self, earlier):
            return self

        def transpose(self):
            return self

    with pytest.raises(TypeError, match=r"abstract class Short .*scaled"):
        Short()


def test_what_grows_is_said():
    @dataclass(frozen=True)
    class Growing(Same):
        spare: torch.Tensor

        def after(self, earlier):
            return Growing(self.a * earlier.a, torch.cat([self.spare, earlier.spare], -1))

        def scaled(self, factor):
            return Growing(li.linear.times(factor, self.a), self.spare)

    found = check_transition(Growing(torch.randn_like(LIKE), torch.randn_like(LIKE)), LIKE)
    assert "register a scan of your own" in found.notes[0]


# Mistakes in scans


def returns(transition, x, initial):
    return x


def forgets_the_start(transition, x, initial):
    li.reference_scan(transition, x, None)


def one_short(transition, x, initial):
    n = len(x) - len(x) % 2
    if n:
        li.reference_scan(li.Diagonal(transition.diagonal[:n]), x[:n], initial)


def spends_the_matrices(transition, x, initial):
    li.reference_scan(transition, x, initial)
    transition.diagonal.zero_()


SCANS = [returns, forgets_the_start, one_short, spends_the_matrices]


@pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
def test_a_mistake_in_a_scan_is_named(scan):
    laws, text = broken(check_scan, li.Diagonal(torch.randn_like(LIKE)), LIKE, scan)
    assert ("leaves the matrices alone" if scan is spends_the_matrices else "equals the loop over time") in laws
    assert ("memory of your own" if scan is spends_the_matrices else "in place") in text


# Mistakes in derivatives and recurrences


class Network:
    """`tanh(W s + u)` that knows all that a recurrence may know."""

    def __init__(self, **wrong):
        self.weight, self.wrong = 0.4 * torch.randn(4, 4, dtype=F64), wrong

    def __call__(self, s, u):
        return torch.tanh(s @ self.weight.T + u)

    def linearize(self, s, u):
        value = self(s, u)
        return NetworkDerivatives(self.weight, value, self.wrong)

    def steps(self, s0, u):
        states = [self(s0[None], u[:1])]
        for t in range(1, len(u)):
            states.append(self(states[-1], u[t : t + 1]))
        return torch.cat(states) + self.wrong.get("steps", 0)

    def solve_adjoint(self, prev, u, g):
        later = torch.cat([self.linearize(prev[1:], u[1:]).jacobian().mT, torch.zeros(1, 2, 4, 4, dtype=F64)])
        return li.linear_scan(li.Dense(later), g, reverse=True) * self.wrong.get("adjoint", 1)


class NetworkDerivatives(li.AbstractDerivatives):
    def __init__(self, weight, value, wrong):
        self.weight, self.value, self.wrong = weight, value + wrong.get("value", 0), wrong
        self.slope = 1 - value**2

    def jvp(self, v):
        return self.slope * (v @ (self.weight if "jvp" in self.wrong else self.weight.T))

    def vjp(self, w):
        return (self.slope * w) @ self.weight

    def jacobian(self):
        return self.slope.unsqueeze(-1) * (self.weight.T if "jacobian" in self.wrong else self.weight)

    def diagonal(self):
        return self.weight.diagonal() * (1 if "diagonal" in self.wrong else self.slope)

    def block_diagonal(self, size):
        if "blocks" in self.wrong:
            raise NotImplementedError
        whole = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
        return whole.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


S0, U = torch.zeros(2, 4, dtype=F64), torch.randn(12, 2, 4, generator=torch.Generator().manual_seed(3), dtype=F64)


def test_a_recurrence_that_knows_much_is_right_in_all_of_it():
    found = check_recurrence(Network(), S0, U)
    assert {"steps", "solve_adjoint", "jacobian", "block_diagonal"} <= {finding.law for finding in found.laws}
    found = check_derivatives(Network(blocks=True), U, U)
    assert "`block_diagonal` is not implemented" in found.notes[0]


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        ({"jvp": 1}, "jvp"),
        ({"jacobian": 1}, "jacobian"),
        ({"diagonal": 1}, "diagonal"),
        ({"steps": 1e-3}, "steps"),
        ({"adjoint": 1.01}, "solve_adjoint"),
        ({"value": 0.1}, "is what `solve` takes"),
        ({"value": 1e-5}, "value"),
    ],
    ids=str,
)
def test_a_mistake_in_what_a_recurrence_offers_is_named(wrong, law):
    laws, _ = broken(check_recurrence, Network(**wrong), S0, U)
    assert law in laws


class Claims:
    is_linear = True

    def __call__(self, s, u):
        return torch.sin(s) + u


def late(s, u):
    """Mixes time steps when there are many."""
    return 0.5 * s + u + (s.mean(0) if len(s) > 5 else 0)


def reuses(buffer):
    def f(s, u):
        if len(s) < 5:
            return 0.5 * s + u
        return torch.add(0.5 * s, u, out=buffer)

    return f


@pytest.mark.parametrize(
    ("f", "law"),
    [
        (Claims(), "is_linear"),
        (late, "maps every row by itself"),
        (reuses(torch.empty(12, 2, 4, dtype=F64)), "is a function"),
        (lambda s, u: s - s.mean(-2, keepdim=True) + u, "is what `solve` takes"),
        (lambda s, u: s + torch.rand_like(s), "is what `solve` takes"),
    ],
    ids=["linear", "late", "buffer", "batch", "random"],
)
def test_a_recurrence_that_breaks_its_contract_is_named(f, law):
    laws, _ = broken(check_recurrence, f, S0, U)
    assert law in laws


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_checks_work_in_both_precisions(dtype):
    assert check_recurrence(lambda s, u: torch.tanh(0.5 * s + u), S0.to(dtype), U.to(dtype)).passed
    f = lambda s, u: torch.tanh(0.5 * s + u)  # noqa: E731
    assert check_method(li.QuasiNewton(), f, S0.to(dtype), U.to(dtype)).passed
    for name, transition in transitions(9, (2,), 4, dtype=dtype).items():
        assert check_transition(transition, LIKE.to(dtype)).passed, name
        assert check_scan(transition, LIKE.to(dtype)).passed, name
