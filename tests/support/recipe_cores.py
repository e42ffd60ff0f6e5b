"""What each recipe computes, at its smallest size, on a device: generators of numbers and tensors."""

import torch

import lds_iter as li
from recipes.devices import CPU


def drawn(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(0), dtype=dtype, device="cpu")


def cells(device):
    from recipes.cells.cells import CELLS
    from recipes.cells.training import train

    x, y = drawn(8, 2, 3).to(device), drawn(8, 2, 1).to(device)
    for name in CELLS:
        found = train(name, x, y, (x, y), units=2, steps=2)
        yield from [*found.losses, found.held_out]


def control(device):
    from recipes.control.__main__ import played
    from recipes.control.optimize import hold, swing_up

    swung, held = (list(one(2, 12, 0.01, device=device)) for one in (swing_up, hold))
    yield from [one.cost for one in (*swung, *held)]
    yield from played(swung[-1].controls, held[-1].controls, 5)


def gru(device):
    from recipes.gru.model import SeriesNetwork
    from recipes.gru.tasks import Regression

    with CPU:
        torch.manual_seed(0)
        layers = li.nn.GRU(3, 4, num_layers=2, batch_first=True, method=li.QuasiNewton())
        model = SeriesNetwork(layers, Regression("mg/dl", 1.0), 1, 1e-3).to(device)
    names, batch = torch.arange(2, device="cpu").to(device), drawn(2, 12, 3).to(device)
    loss = model.training_step((names, batch, batch[..., :1]), 0)
    loss.backward()
    yield from (loss, model.head.weight.grad)


def langevin(device):
    from recipes.langevin.measure import mixtures, two_wells

    yield from [row.iterations for row in mixtures([3], [1e-4], 12, device)]
    yield two_wells(20, 2, device=device)[1]


def mcmc(device):
    from recipes.mcmc.__main__ import target
    from recipes.mcmc.problems import EightSchools

    for model in "cancer", "schools":
        logdensity, start = target(model, 2, device)
        yield logdensity(start)
    yield from EightSchools(device=device).start(2).values()


def neural_ode(device):
    from recipes.neural_ode.data import two_bodies
    from recipes.neural_ode.model import Hamiltonian
    from recipes.neural_ode.training import SOLVERS, NeuralODE

    times, states = two_bodies(2, 8)
    for solve in SOLVERS.values():
        with CPU:
            torch.manual_seed(0)
            module = NeuralODE(Hamiltonian(4), times, solve, first=None, growth=1, rate=1e-3).to(device)
        yield module.training_step([states.transpose(0, 1).to(device)], 0)


def optimizer(device):
    from recipes.optimizer.curvature import GaussNewton, PerParameter
    from recipes.optimizer.problems import TASKS
    from recipes.optimizer.training import SGD, Adam, Training
    from recipes.optimizer.tuning import tune_rates

    for task in TASKS:
        problem = TASKS[task]().to(device)
        for kind, method in (SGD(), lambda training, problem=problem: GaussNewton(problem)), (
            Adam(), lambda training, problem=problem: PerParameter(problem, training)
        ):  # fmt: skip
            training = Training(problem.loss, problem.data, kind)
            given = training.inputs(0.01, 4, 3)
            yield li.solve(training, training.start(problem.x), given, method(training)).states
    problem = TASKS["tumours"](2).to(device)
    training = Training(problem.loss, problem.data, Adam())
    for rates, loss in tune_rates(training, problem.x, training.inputs(0.01, 4, 3), 2):
        yield from (rates, loss)


def predictability(device):
    from recipes.predictability.measure import networks, observers, rings, systems, wells

    yield from [one.iterations for one in networks([1.0], range(1), 4, 12, device)]
    yield from [one.iterations for one, _ in observers(8, device=device)]
    yield from [one.iterations for one in systems(["Chua"], 8, device=device)]
    yield from [one.iterations for one in rings([1.0], 4, 8, device)]
    yield from (wells(2, 12, device).counts, wells(2, 12, device).exponents)


def pretrained(device):
    from recipes.pretrained.drop_in import gain
    from recipes.pretrained.evaluate import Candidate, parallel_gru
    from recipes.pretrained.networks import Network

    with CPU:
        torch.manual_seed(0)
        layers = torch.nn.GRU(3, 4, bidirectional=True).requires_grad_(False)
    network = Network("", "", layers, drawn(12, 3)).to(device)
    yield parallel_gru(network.gru, network.x, Candidate(li.Newton()), 12)[0]
    assert gain(network, training=False).error < 1e-4  # a solve stops at residuals of 1e-5


def recurrent_depth(device):
    from recipes.recurrent_depth.compare import generation, measure_depth, ordinary, over_depth
    from recipes.recurrent_depth.layer_parallel import Penalty, losses
    from recipes.recurrent_depth.layer_parallel import train as train_layers
    from recipes.recurrent_depth.model import RecurrentDepth, Shape
    from recipes.recurrent_depth.text import encode
    from recipes.recurrent_depth.train import held_out_loss, solved, unroll

    with CPU:
        torch.manual_seed(0)
        model = RecurrentDepth(Shape(width=8, heads=2)).to(device)
    tokens = encode("A compound statement").to(device)
    yield held_out_loss(model, tokens, 2, 4)
    for way in unroll, solved:
        yield way(model, tokens[None], 4)[-1]
    model.requires_grad_(False)
    yield measure_depth("", over_depth(model, tokens, 3)).early_exit
    yield from [way.tokens for way in generation(model, tokens, 2, 3, [2], [0.1], 2)]
    yield from [way.tokens for way in ordinary(model, tokens, 2, 3)]
    stack = train_layers(2, 1, Penalty(1.0), width=8, device=device)
    yield losses(stack, encode("A compound statement " * 4).to(device), [1])[1]


def teacher_forcing(device):
    from recipes.teacher_forcing.data import divergence, lorenz
    from recipes.teacher_forcing.network import ShallowPLRNN
    from recipes.teacher_forcing.training import train

    torch.manual_seed(0)
    data = lorenz(40).to(device)
    for parallel in True, False:
        yield from [step.loss for step in train(ShallowPLRNN(3, 4).to(device), data, 2, parallel=parallel)]
    yield divergence(data[1:], data[:-1])


def word_problem(device):
    from recipes.word_problem.__main__ import iterations
    from recipes.word_problem.models import DiagonalModel, MatrixModel
    from recipes.word_problem.training import accuracy_by_place, train

    for kind in MatrixModel, DiagonalModel:
        torch.manual_seed(0)
        model = kind(60).to(device)
        yield from [stage.loss for stage in train(model, "A5", 4, letters=8, patience=2)]
        yield accuracy_by_place(model, "A5", 4, 2)
    torch.manual_seed(0)
    yield from iterations(MatrixModel(60).to(device), "A5", 6).values()


COMPUTE = [
    cells, control, gru, langevin, mcmc, neural_ode, optimizer, predictability, pretrained, recurrent_depth,
    teacher_forcing, word_problem,
]  # fmt: skip
"""All recipes but `diffusion`, whose library has a device of its own in every call."""
