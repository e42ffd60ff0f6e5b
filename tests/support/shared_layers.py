"""Layers whose time steps several ranks share, or one process holds, for tests that compare the two."""

import torch
from shared_solves import Network

import lds_iter as li

LENGTH, BATCH, FEATURES, WIDTH = 11, 2, 3, 4
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
"""So that only rounding is left of the difference between two solves."""


def layer_of(kind, mesh, **arguments):
    """A layer in float64 with the same weights on every rank."""
    torch.manual_seed(1)
    if kind == "cell":
        return li.nn.Recurrent(torch.nn.LSTMCell(FEATURES, WIDTH, dtype=torch.float64), mesh=mesh, **TIGHT, **arguments)
    return getattr(li.nn, kind)(FEATURES, WIDTH, dtype=torch.float64, mesh=mesh, **TIGHT, **arguments)


CASES = {
    "gru": ("GRU", {"num_layers": 2}, False),
    "two directions": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}, False),
    "projection": ("LSTM", {"proj_size": 2, "bidirectional": True}, False),
    "lstm": ("LSTM", {"method": li.BlockNewton(2)}, False),
    "single": ("RNN", {"nonlinearity": "relu", "bidirectional": True}, True),
    "cell": ("cell", {"batch_first": True}, False),
    "window": ("GRU", {"window": 3, "method": li.QuasiNewton()}, False),
}
"""Kind of layer, its arguments, and whether the sequence has no batch."""


def run_layer(name, sizes=None, group=None):
    """Outputs, final states and gradients: of one process, or of this rank of a group, which holds `sizes` steps."""
    kind, arguments, single = CASES[name]
    layer = layer_of(kind, group, **arguments)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(LENGTH, BATCH, FEATURES, generator=generator, dtype=torch.float64)
    first = 0 if group is None else sum(sizes[: group.rank()])
    rows = slice(first, LENGTH if group is None else first + sizes[group.rank()])
    x = (x[:, 0] if single else x)[rows].clone()
    if arguments.get("batch_first"):
        x = x.transpose(0, 1)
    start = started(layer, single, generator)
    for leaf in (x, *start):
        leaf.requires_grad_()
    output, final = layer(x, start if len(start) > 1 else start[0])
    outputs = output if isinstance(output, tuple) else (output,)
    finals = final if isinstance(final, tuple) else (final,)
    share = 1 if group is None else 1 / len(sizes)  # the loss of a final state is on every rank, so each has a part
    loss = sum(weighted(one, rows, arguments, single) for one in outputs)
    loss = loss + share * sum((one * (k + 2)).pow(2).sum() for k, one in enumerate(finals))
    loss.backward()
    solutions = layer.last_solution if isinstance(layer.last_solution, tuple) else (layer.last_solution,)
    time = 1 if arguments.get("batch_first") else 0
    return {
        "outputs": [one.detach().movedim(time, 0) for one in outputs],
        "finals": [one.detach() for one in finals],
        "inputs": x.grad.movedim(time, 0),
        "parameters": [parameter.grad for parameter in layer.parameters()],
        "start": [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in start],
        "iterations": [solution.iterations.tolist() for solution in solutions if solution is not None],
    }


def started(layer, single, generator):
    """Initial states, drawn at random."""
    if isinstance(layer, li.nn.Recurrent):
        shapes = [(BATCH, WIDTH)] * 2
    else:
        lead = layer.num_layers * (2 if layer.bidirectional else 1)
        batch = () if single else (BATCH,)
        shapes = [(lead, *batch, layer.proj_size or WIDTH)]
        shapes += [(lead, *batch, WIDTH)] if isinstance(layer, torch.nn.LSTM) else []
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def weighted(output, rows, arguments, single):
    """A loss of all outputs, in which every time step has a weight of its own."""
    output = output.transpose(0, 1) if arguments.get("batch_first") else output
    weights = torch.linspace(-1, 1, LENGTH, dtype=output.dtype)[rows]
    return (output * weights.view(-1, *[1] * (1 if single else 2))).sum()


def run_layers(group, sizes, names):
    """The results of several layers."""
    return {name: run_layer(name, sizes, group) for name in names}


def a_cell_of_ones_own(group):
    """A recurrence that knows its derivatives, as a cell."""
    torch.manual_seed(0)
    weight = torch.randn(3, 3, dtype=torch.float64)
    layer = li.nn.Recurrent(Network(weight), mesh=group)
    states, final = layer(torch.ones(4, 2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64))
    return states, final
