"""All steps of a training at once: torch's own optimizers, the loop, gradients of learning rates, command line."""

import pytest
import torch
from typer.testing import CliRunner

import lds_iter as li
from recipes.optimizer.__main__ import app
from recipes.optimizer.curvature import GaussNewton, PerParameter
from recipes.optimizer.problems import irises, network, tumours
from recipes.optimizer.training import SGD, Adam, Momentum, TextbookAdam, Training
from recipes.optimizer.tuning import last_loss, tune_rates

KINDS = {
    "sgd": (SGD(), 0.1, lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (Momentum(), 0.02, lambda p: torch.optim.SGD(p, 0.02, momentum=0.9)),
    "adam": (Adam(), 0.01, lambda p: torch.optim.Adam(p, 0.01)),
    "textbook": (TextbookAdam(), 0.01, lambda p: torch.optim.Adam(p, 0.01)),
}


@pytest.mark.parametrize("task", [tumours, irises])
@pytest.mark.parametrize("kind", KINDS)
def test_the_steps_are_those_of_torch(kind, task):
    optimizer, rate, torch_optimizer = KINDS[kind]
    problem = task()
    training = Training(problem.loss, problem.data, optimizer)
    given = training.inputs(rate, 25, 8)
    states = training.parameters(li.sequential(training, training.start(problem.x), given))
    x = problem.x.clone().requires_grad_()
    stepper = torch_optimizer([x])
    for rows, ours in zip(given[0], states, strict=True):
        stepper.zero_grad()
        problem.loss(x, tuple(part[rows] for part in problem.data)).backward()
        stepper.step()
        # rounding; and Adam's second moments are larger by 1e-20, a part in 1e12 of the smallest here
        torch.testing.assert_close(ours, x.detach(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("kind", "most"), [("sgd", 12), ("momentum", 12), ("adam", 16)])
def test_all_steps_at_once_in_few_iterations(kind, most):
    optimizer, rate, _ = KINDS[kind]
    problem = tumours()
    training = Training(problem.loss, problem.data, optimizer)
    s0, given = training.start(problem.x), training.inputs(rate, 150, 16)
    solution = li.solve(training, s0, given, rtol=1e-10, atol=1e-10)
    assert int(solution.iterations) <= most  # measured 7, 7 and 9 at most; the loop takes 150
    # residuals of 1e-10, amplified by as many steps as momentum remembers
    torch.testing.assert_close(solution.states, li.sequential(training, s0, given), rtol=0, atol=1e-7)


def test_the_textbook_coordinates_take_more_iterations():
    problem = tumours(3)
    counts = []
    for optimizer in Adam(), TextbookAdam():
        training = Training(problem.loss, problem.data, optimizer)
        given = training.inputs(0.01, 200, 16)
        solution = li.solve(training, training.start(problem.x), given, rtol=1e-6, atol=1e-6, max_iters=40, throw=False)
        counts.append(int(solution.iterations))
    assert 2 * counts[0] < counts[1]


def test_gauss_newton_is_newton_on_logistic_regression():
    problem = tumours()
    training = Training(problem.loss, problem.data, SGD())
    s0, given = training.start(problem.x), training.inputs(0.1, 60, 8)
    lin = li.linearization(training, s0, li.sequential(training, s0, given), given)
    found = GaussNewton(problem).transition(lin)
    assert found.rank == 8  # one for each example
    torch.testing.assert_close(found.matrices().matrix, lin.jacobian(), rtol=1e-12, atol=1e-14)  # float64 on both sides


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_blocks_per_parameter_are_those_of_the_jacobian_where_the_curvature_is(kind):
    optimizer, rate, _ = KINDS[kind]
    problem = tumours(4)
    training = Training(problem.loss, problem.data, optimizer)
    s0, given = training.start(problem.x), training.inputs(rate, 20, 8)
    lin = li.linearization(training, s0, li.sequential(training, s0, given), given)
    found = PerParameter(problem, training).transition(lin).blocks
    torch.testing.assert_close(found, lin.block_diagonal(optimizer.size), rtol=1e-9, atol=1e-12)  # float64 on both


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_a_network_of_many_parameters_without_its_jacobian(kind):
    optimizer, rate, _ = KINDS[kind]
    problem = network(8)  # 257 parameters
    training = Training(problem.loss, problem.data, optimizer)
    s0, given = training.start(problem.x), training.inputs(rate, 60, 16)
    exact = li.sequential(training, s0, given)
    methods = [PerParameter(problem, training)] + [GaussNewton(problem)] * (kind == "sgd")
    for method in methods:
        solution = li.solve(training, s0, given, method, rtol=1e-8, atol=1e-8, max_iters=30)
        assert int(solution.iterations) <= 30  # half of the steps; measured 13 to 24
        # residuals of 1e-8, amplified by as many steps as the optimizer remembers
        torch.testing.assert_close(solution.states, exact, rtol=0, atol=1e-5)


def test_gauss_newton_is_for_the_parameters_alone():
    problem = tumours(2)
    training = Training(problem.loss, problem.data, Momentum())
    with pytest.raises(ValueError, match=r"is for SGD.*P = 3 parameters, got a state of 6 numbers"):
        li.solve(training, training.start(problem.x), training.inputs(0.1, 5, 4), GaussNewton(problem))


def test_the_gradient_of_every_learning_rate_is_that_of_the_loop():
    problem = irises(2)
    training = Training(problem.loss, problem.data, Adam())
    rows, rate, t = training.inputs(0.02, 30, 8)
    rate = rate.clone().requires_grad_()
    (ours,) = torch.autograd.grad(last_loss(training, problem.x, (rows, rate, t)), rate)
    states = li.sequential(training, training.start(problem.x), (rows, rate, t))
    (exact,) = torch.autograd.grad(training.loss(training.parameters(states[-1]), problem.data), rate)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-6 * float(exact.abs().max()))  # states are solved to 1e-8


def test_tuning_learning_rates_lowers_the_last_loss():
    problem = tumours(2)
    training = Training(problem.loss, problem.data, SGD())
    given = training.inputs(0.1, 30, 8)
    losses = [loss for _, loss in tune_rates(training, problem.x, given, 4)]
    assert losses == sorted(losses, reverse=True)


def test_command_line(tmp_path):
    arguments = ["--steps", "30", "--tunings", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "times fewer" in result.output
    assert (tmp_path / "optimizer.svg").stat().st_size > 1000
    arguments = [
        "--task",
        "network",
        "--steps",
        "12",
        "--optimizer",
        "sgd",
        "--method",
        "gauss",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for wrong in ["--optimizer", "lion"], ["--method", "gauss"], ["--method", "bfgs"]:
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2
