"""The word problem: groups, exactness in one iteration, learning, and the command line."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import lds_iter as li
from recipes.word_problem.__main__ import app
from recipes.word_problem.groups import GROUPS, elements, matrices, places
from recipes.word_problem.models import ByMatrix, MatrixModel
from recipes.word_problem.training import accuracy_by_place, train, words_of


def test_the_groups_are_groups():
    for group, size in ("S5", 120), ("A5", 60):
        known = {tuple(row) for row in elements(group).tolist()}
        assert len(known) == size
        assert {tuple(one[i] for i in other) for one in known for other in known} == known


@given(group=st.sampled_from(GROUPS), length=st.integers(1, 70), seed=st.integers(0, 99))
def test_places_are_those_of_moving_the_things_one_letter_after_the_other(group, length, seed):
    words = words_of(group, length, 3, torch.Generator().manual_seed(seed))
    things = torch.arange(5).expand(3, 5)
    for letter, found in zip(words, places(group, words), strict=True):
        things = things.gather(-1, elements(group)[letter])
        assert torch.equal(found, things)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_newton_iteration_is_exact_to_the_bit(group, dtype):
    """Products of permutation matrices do not round; 2,000 letters."""
    words = words_of(group, 2_000, 2, torch.Generator().manual_seed(0))
    a, things = matrices(group).to(dtype)[words], torch.arange(5, dtype=dtype).expand(2, 5)
    solution = li.solve(ByMatrix(), things, a, li.Newton())
    assert solution.iterations.tolist() == [1, 1]
    assert torch.equal(solution.states, places(group, words).to(dtype))


def test_a_diagonal_of_the_matrices_needs_nearly_as_many_iterations_as_letters():
    words = words_of("S5", 300, 1, torch.Generator().manual_seed(0))
    solution = li.solve(ByMatrix(), torch.arange(5.0)[None], matrices("S5")[words], li.QuasiNewton())
    assert int(solution.iterations) > 200  # published: 0.98 T at T = 1,000


class Swaps:
    """Letters that swap two things: `I - (e_i - e_j)(e_i - e_j)^T`, the identity minus rank one."""

    is_linear = True

    def __call__(self, s, v):
        return self.linearize(s, v).value

    def linearize(self, s, v):
        jacobian = li.LowRank(torch.ones(()).to(s).expand_as(s), -v.unsqueeze(-1), v.unsqueeze(-1))
        return li.StructuredDerivatives(jacobian.mv(s), jacobian)


def test_swaps_are_the_identity_minus_rank_one_and_take_one_iteration():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(1_000)])
    eye, things = torch.eye(5), torch.arange(5.0)
    solution = li.solve(Swaps(), things, eye[pairs[:, 0]] - eye[pairs[:, 1]], li.Newton())
    assert int(solution.iterations) == 1
    for pair, found in zip(pairs, solution.states, strict=True):
        things = things.clone()
        things[pair] = things[pair.flip(0)]
        assert torch.equal(found, things)


def test_gradients_are_those_of_the_loop():
    torch.manual_seed(0)
    model, words = MatrixModel(60).double(), words_of("A5", 40, 2, torch.Generator().manual_seed(1))
    found = torch.autograd.grad(model(words).mean(), model.scores)[0]
    a, s, rows = model.scores.softmax(-1), torch.eye(5, dtype=torch.float64), []
    for letter in words:
        s = a[letter] @ s
        rows.append(s)
    exact = torch.autograd.grad(torch.stack(rows).log().mean(), model.scores)[0]
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-12)  # float64 on both sides, 40 steps that average


def test_it_is_learned_and_holds_on_new_words():
    torch.manual_seed(0)
    model = MatrixModel(60)
    stages = list(train(model, "A5", 64, letters=500, patience=200, rate=0.1))
    assert stages[-1].length == 64
    assert float(accuracy_by_place(model, "A5", 64, 20).mean()) > 0.95  # a chance hit is 1 in 60


def test_command_line(tmp_path):
    arguments = ["--group", "A5", "--length", "32", "--letters", "200", "--patience", "5", "--out", str(tmp_path)]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "iterations of Newton(): 1\n" in done.output
    assert (tmp_path / "word_problem.svg").exists()
    wrong = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["--group", "S6"])
    assert wrong.exit_code == 2
    assert "must be one of S5, A5, got S6" in wrong.output
