"""Recipes compute on the device that `--device` names: without a GPU, on one that is pretended.

What each recipe computes is run at its smallest size on the CPU, on the CPU while torch's default device is `meta`, and
on a pretended device, where tensors of the CPU may not meet those of the device.
"""

import ast
import contextlib
import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch
from pretended import AWAY, Pretended
from typer.testing import CliRunner

import lds_iter as li
import recipes
from recipes import devices
from recipes.devices import CPU

FOLDER = Path(recipes.__path__[0])
CUDA = torch.device("cuda")


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


def numbers(compute, device):
    """What a recipe computes, on the CPU."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, on a module without a trainer
        return [float(found) if isinstance(found, float | int) else found.detach().cpu() for found in compute(device)]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        # solves stop at residuals of 1e-5 to 1e-4, and different kernels may stop at different ones
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    return Pretended()


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_recipe_computes_on_its_device(compute, pretended):
    expected = numbers(compute, CPU)
    with pretended:
        assert_same(numbers(compute, AWAY), expected)


@pytest.mark.parametrize("compute", COMPUTE)
def test_a_recipe_creates_nothing_on_the_default_device(compute):
    with torch.device("meta"):
        assert numbers(compute, CPU)


def test_tensors_of_two_devices_do_not_meet(pretended):
    """So the tests above can fail."""
    with pretended:
        x = torch.ones(3, device=AWAY)
        assert (x + 1).device.type == AWAY.type
        assert (x * torch.ones((), device="cpu")).tolist() == [1, 1, 1]
        with pytest.raises(RuntimeError, match="tensors on the CPU beside"):
            x + torch.ones(3, device="cpu")
        with pytest.raises(RuntimeError, match="tensors on the CPU beside"):
            torch.ones(3, device="cpu")[x.long()]


NAMES = sorted(path.parent.name for path in FOLDER.glob("*/__main__.py"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("device", ["tpu", "meta"])
def test_every_recipe_takes_a_device_and_answers_in_a_line_where_there_is_none(name, device, tmp_path):
    app = importlib.import_module(f"recipes.{name}.__main__").app
    done = CliRunner(env={"COLUMNS": "1000"}).invoke(app, ["--device", device, "--out", str(tmp_path)])
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert re.search(rf"(--device|No device).*{device}", said), said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_the_arguments_of_a_trainer():
    assert devices.of_trainer(CPU) == {"accelerator": "cpu", "devices": 1}
    assert devices.of_trainer(CUDA) == {"accelerator": "cuda", "devices": 1}
    assert devices.of_trainer(torch.device("cuda:1")) == {"accelerator": "cuda", "devices": [1]}


@pytest.fixture
def pinned(monkeypatch):
    """How many tensors have been pinned: here, where nothing can be."""
    found = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: found.append(x) or x)
    return found


@pytest.mark.parametrize(("device", "count"), [(CPU, 0), (AWAY, 0), (CUDA, 1)])
def test_what_goes_to_a_gpu_goes_through_pinned_memory_and_nobody_waits(device, count, pinned, monkeypatch):
    moves = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, non_blocking: moves.append((device, non_blocking)))
    devices.put(torch.ones(3), device)
    assert len(pinned) == count
    assert moves == [(device, count == 1)]


@pytest.mark.parametrize(("device", "count"), [(CPU, 0), (CUDA, 3)])
def test_batches_of_series_are_pinned_for_a_gpu(device, count, pinned):
    from recipes.gru.data import InOrder, Shuffled

    samples = [(torch.ones(5, 2), torch.ones(5, 1))] * 3
    for loader in Shuffled(samples, 2, 0, lambda: 0, device), InOrder(samples, 2, device):
        next(iter(loader))
        assert len(pinned) == count
        pinned.clear()


def neural_ode_training(device):
    from recipes.neural_ode.data import two_bodies
    from recipes.neural_ode.model import Hamiltonian
    from recipes.neural_ode.training import train

    times, states = two_bodies(2, 8)
    train(Hamiltonian(4), times, states, solver="parallel", epochs=1, batch=2, device=device)


def recurrent_depth_training(device):
    from recipes.recurrent_depth.train import main

    main(steps=10, width=8, device=str(device))


def diffusion_training(device):
    pytest.importorskip("diffusers")
    from recipes.diffusion.train import main

    main(steps=1, batch=2, device=str(device))


class Begun(Exception):
    """A trainer was asked to begin."""


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("training", [neural_ode_training, recurrent_depth_training, diffusion_training])
def test_loaders_are_asked_for_pinned_memory_where_the_device_is_a_gpu(training, device, monkeypatch):
    import pytorch_lightning as pl

    asked = {}

    class Trainer:
        def __init__(self, **options):
            asked.update(options)

        def fit(self, module, loader):
            asked.update(pins=loader.pin_memory)
            raise Begun

    monkeypatch.setattr(pl, "Trainer", Trainer)
    monkeypatch.setattr(devices, "device_of", torch.device)
    for module in "recurrent_depth.train", "diffusion.train":
        with contextlib.suppress(ImportError):
            monkeypatch.setattr(importlib.import_module(f"recipes.{module}"), "device_of", torch.device)
    with pytest.raises(Begun):
        training(device)
    assert asked["accelerator"] == device.type
    assert asked["pins"] == (device.type == "cuda")


DECIDES = {"word_problem/training.py: float(_right(logs, wanted).mean())"}
"""Whether the next words are longer depends on it."""


def test_a_step_of_training_reads_nothing_from_the_device():
    """Each read waits until the device is done. What an `if` guards is not read in every step."""
    found = {
        f"{path.relative_to(FOLDER)}: {ast.unparse(call)}"
        for path in FOLDER.rglob("*.py")
        for step in steps_of_training(ast.parse(path.read_text()))
        for call in calls_in_every_step(step)
        if reads(call)
    }
    assert found == DECIDES


def steps_of_training(tree):
    """The innermost loops that go backward, and Lightning's `training_step`."""
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While) and goes_backward(node)]
    inner = [loop for loop in loops if not any(other in loops for other in ast.walk(loop) if other is not loop)]
    return inner + [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "training_step"
    ]


def goes_backward(node):
    return any(isinstance(child, ast.Attribute) and child.attr == "backward" for child in ast.walk(node))


def calls_in_every_step(node):
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.If):
            yield from [child] if isinstance(child, ast.Call) else []
            yield from calls_in_every_step(child)


def reads(call):
    """A conversion to a number of Python or numpy, of something that was not drawn on the CPU."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in {"item", "tolist", "cpu", "numpy", "float", "int", "bool"} and "'cpu'" not in ast.unparse(call)
