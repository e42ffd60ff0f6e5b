"""Batches on their way to a GPU are in pinned memory, and nobody waits for their copies; others are not pinned."""

import contextlib
import importlib

import pytest
import torch

from recipes import devices
from recipes.devices import CPU

CUDA, OTHER = torch.device("cuda"), torch.device("mps")


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


@pytest.mark.parametrize(("device", "count"), [(CPU, 0), (OTHER, 0), (CUDA, 1)])
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
