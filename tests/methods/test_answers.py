"""What a user's method or rule answers is checked where it answers; pairs that cannot work are refused early."""

import re
from dataclasses import dataclass

import pytest
import torch
from catalogue import ADVERSARIES, METHODS, tanh_rnn
from wrapping import OUTER

import lds_iter as li

F64 = torch.float64
S0, U = torch.zeros(2, 4, dtype=F64), torch.ones(9, 2, 4, dtype=F64)


@dataclass(frozen=True)
class Answers(li.LDSApproximation):
    answer: object

    def init(self, guess):
        return None

    def update(self, lin, carry):
        return self.answer(lin)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda lin: lin.residual, "`Answers.update` must return `(d, carry)`, got torch.float64 (9, 2, 4)"),
        (lambda lin: None, "`Answers.update` must return `(d, carry)`, got NoneType"),
        (lambda lin: (None, None), "must propose an update like the residual, torch.float64 (9, 2, 4), got NoneType"),
        (lambda lin: (lin.residual[0], None), "must propose an update like the residual, torch.float64 (9, 2, 4)"),
        (lambda lin: (lin.residual.float(), None), "must propose an update like the residual, torch.float64 (9, 2, 4)"),
        (lambda lin: (li.Dense(lin.jacobian()), None), "must propose an update like the residual"),
    ],
)
def test_what_is_no_update_is_told_so(answer, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        li.solve(tanh_rnn(4), S0, U, Answers(answer))


@pytest.mark.parametrize("answer", [lambda lin: li.Zero(), lambda lin: (li.Zero(),), lambda lin: None])
def test_what_is_no_choice_and_carry_is_told_so(answer):
    class Own(li.StatefulTransition):
        def init(self, guess):
            return None

        def choose(self, lin, carry):
            return answer(lin)

    for method in Own(), li.Damped(Own(), 0.1), li.TrustRegion(Own()), li.Chord(Own(), 2):
        with pytest.raises(TypeError, match=re.escape("`Own.choose` must return `(transition, carry)`")):
            li.solve(tanh_rnn(4), S0, U, method)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p: p.residual < 1, "`Own.holds` must return `(now, carry)`, got Tensor"),
        (lambda p: (True, None), "must answer a bool for each sequence, torch.bool (2,), got True"),
        (lambda p: (p.residual, None), "must answer a bool for each sequence, torch.bool (2,), got torch.float64 (2,)"),
        (lambda p: ((p.residual < 1).any(), None), "torch.bool (2,), got torch.bool ()"),
    ],
)
def test_what_is_no_answer_of_a_rule_is_told_so(answer, message):
    class Own(li.AbstractRule):
        def init(self, progress):
            return None

        def holds(self, progress, carry):
            return answer(progress)

    with pytest.raises(TypeError, match=re.escape(message)):
        li.solve(tanh_rnn(4), S0, U, li.Switch(li.Jacobi(), li.Newton(), Own()))
    with pytest.raises(TypeError, match=re.escape(message)):
        li.solve(tanh_rnn(4), S0, U, stop=Own())


def test_what_is_no_method_for_the_adjoint_is_told_so():
    class Own(li.TransitionApproximation):
        def transition(self, lin):
            return li.Zero()

        def for_adjoint(self):
            return None

    s0 = S0.clone().requires_grad_()
    with pytest.raises(TypeError, match=r"`Own\.for_adjoint` must return a method .* got None.*li\.Newton\(\)"):
        li.solve(tanh_rnn(4), s0, U, Own())


@pytest.mark.parametrize("name", [*METHODS, *ADVERSARIES])
def test_a_pair_is_refused_when_it_is_composed_or_works(name):
    """Whatever can be built can be solved with; what cannot is a TypeError that says what to type."""
    inner, refused = {**METHODS, **ADVERSARIES}[name], []
    for wrap in OUTER.values():
        try:
            method = wrap(inner)
        except TypeError as error:
            refused.append(str(error))
        else:
            assert li.solve(tanh_rnn(4), S0, U, method).converged
    assert all(re.search(r"must be an instance of \w+ such as", text) for text in refused)
    assert not refused or not isinstance(inner, li.TransitionApproximation)


def test_a_factor_may_be_a_tensor_without_dimensions():
    a, x = li.Dense(torch.randn(9, 2, 4, 4, dtype=F64)), torch.randn(9, 2, 4, dtype=F64)
    torch.testing.assert_close((torch.tensor(0.5, dtype=F64) * a) @ x, 0.5 * (a @ x))
