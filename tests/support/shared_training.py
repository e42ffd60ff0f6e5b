"""Trainings of a small network by several ranks: by parts of the batch, of time, and of the parameters."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import lds_iter as li

LENGTH, BATCH, FEATURES, WIDTH = 8, 4, 3, 4
TIGHT = {"rtol": 1e-12, "atol": 1e-12}


class SmallNetwork(torch.nn.Module):
    """Two layers, or a cell, and a head; float64, with the same weights everywhere."""

    def __init__(self, kind, mesh=None, method=None):
        super().__init__()
        torch.manual_seed(1)
        options = {"mesh": mesh, "method": method, **TIGHT}
        if kind == "cell":
            self.layer = li.nn.Recurrent(torch.nn.GRUCell(FEATURES, WIDTH, dtype=torch.float64), **options)
        else:
            self.layer = getattr(li.nn, kind)(FEATURES, WIDTH, num_layers=2, dtype=torch.float64, **options)
        self.head = torch.nn.Linear(WIDTH, 1, dtype=torch.float64)

    def forward(self, x):
        return x[..., :1] + self.head(self.layer(x)[0])


def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(LENGTH, BATCH, FEATURES, generator=generator, dtype=torch.float64)
    return x, x.sum(-1, keepdim=True).cumsum(0).sin()


def part(x, mesh):
    """The time steps and the sequences of this rank, on a mesh of batch and time."""
    (batch, time), (row, column) = mesh.shape, mesh.get_coordinate()
    return x.tensor_split(time)[column].tensor_split(batch, 1)[row]


def trained(model, x, y, steps=3):
    """The gradients of the first step, and the parameters after a few."""
    optimizer, first = torch.optim.Adam(model.parameters(), 0.01), None
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        first = first or [whole(parameter.grad).clone() for parameter in model.parameters()]
        optimizer.step()
    return {"gradients": first, "parameters": [whole(parameter.detach()) for parameter in model.parameters()]}


def whole(x):
    """A tensor of which every rank may hold a part."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def trained_alone(kind):
    """By one process."""
    return trained(SmallNetwork(kind), *data())


def trained_by_ranks(group, shape, kinds, methods):
    """By the ranks of a mesh of batch and time, with gradients averaged by DDP and by FSDP2."""
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("batch", "time"))
    x, y = (part(one, mesh) for one in data())
    found = {}
    for kind in kinds:
        for wrapping in WRAPPINGS:
            for method in methods:
                model = SmallNetwork(kind, mesh["time"] if shape[1] > 1 else None, method)
                found[kind, wrapping, method] = trained(WRAPPINGS[wrapping](model), x, y)
    return found


def sharded(model):
    """FSDP2: every rank keeps a part of each parameter."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPINGS = {"DDP": DistributedDataParallel, "FSDP2": sharded}
