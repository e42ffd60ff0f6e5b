"""The compiled cells for tests: recurrences of every kind with random states, compiled and in plain operations."""

import torch

import lds_iter as li
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.cpu.build import function

DTYPES = [torch.float32, torch.float64]
CELLS = {
    "gru": (torch.nn.GRU, {}, li.nn.GRURecurrence, cells.COMPILED_GRU),
    "lstm": (torch.nn.LSTM, {}, li.nn.LSTMRecurrence, cells.COMPILED_LSTM),
    "tanh": (torch.nn.RNN, {}, li.nn.RNNRecurrence, cells.COMPILED_RNN_TANH),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}, li.nn.RNNRecurrence, cells.COMPILED_RNN_RELU),
}
METHODS = {"full": li.Newton(), "blocks": li.BlockNewton(2), "diagonal": li.QuasiNewton()}
EACH = [(kind, form) for kind in CELLS for form in METHODS if form != "blocks" or kind == "lstm"]
COMPILED = function("gru", "step", torch.float32, 7) is not None


def problem(kind, n, batch, width, dtype, *, scale=1.0):
    """A recurrence, what its inputs contribute, and random states."""
    torch.manual_seed(0)
    layer, options, recurrence, cell = CELLS[kind]
    module = layer(width, width, **options).requires_grad_(False).to(dtype)
    module.weight_hh_l0.mul_(scale)
    f = recurrence.from_module(module)
    u = f.inputs(torch.randn(n, *batch, width, dtype=dtype))
    return f, u, torch.randn(n, *batch, cell.parts * width, dtype=dtype)


def tensors(kind, f, u):
    """What the compiled functions take."""
    return f.tensors(u)


def mates(u, pick):
    """The inputs of some batch mates, in memory of their own."""
    return tuple(leaf[pick].contiguous() for leaf in u) if isinstance(u, tuple) else u[pick].contiguous()


def plainly(monkeypatch, run, *arguments, **options):
    """Run it with plain torch operations."""
    with monkeypatch.context() as patch:
        patch.setenv("LDS_ITER_CPU_KERNELS", "0")
        return run(*arguments, **options)


def wide(kind, f, u, h):
    """The same in float64."""
    _, options, recurrence, cell = CELLS[kind]
    weights = tuple(weight.double() for weight in tensors(kind, f, u)[cell.gates : 2 * cell.gates])
    rows = cell.gates * f.width
    bias = torch.cat([torch.zeros(2 * f.width), f.weights.inner_bias]).double() if kind == "gru" else None
    g = recurrence(torch.zeros(rows, 1).double(), torch.cat(weights), None, bias, **options)
    return g, tuple(leaf.double() for leaf in u) if isinstance(u, tuple) else u.double(), h.double()
