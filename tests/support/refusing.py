"""Recurrences that refuse forward mode, in the ways in which functions do, each beside one in plain operations."""

import torch
from torch.autograd.function import once_differentiable

WIDTH = 4
WEIGHT = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64) / 3
GATES = torch.randn(3 * WIDTH, WIDTH, generator=torch.Generator().manual_seed(6), dtype=torch.float64) / 2


class WithoutJvp(torch.autograd.Function):
    """As extensions write it today, with neither `jvp` nor `vmap`."""

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Older(torch.autograd.Function):
    """As they wrote it before `torch.func`, which takes none of these."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Once(torch.autograd.Function):
    """With one derivative and not two, as fused attention has."""

    forward = Older.forward

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y * y)


class Never(torch.autograd.Function):
    """Without any derivative."""

    @staticmethod
    def forward(ctx, x):
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        raise NotImplementedError("derivative for this kernel is not implemented")


def of_function(cls):
    return lambda s, u: cls.apply(s @ WEIGHT.T) + u


def in_plain_operations(s, u):
    return torch.tanh(s @ WEIGHT.T) + u


def gates_of(s, u):
    """What a GRU cell gives its kernel: `(N, 3 D)` of the input, `(N, 3 D)` and `(N, D)` of the state."""
    s, u = s.reshape(-1, WIDTH), u.reshape(-1, WIDTH)
    return torch.cat([u, -u, u / 2], -1), s @ GATES.T, s


def fused_gru(s, u):
    """The kernel that a `torch.nn.GRUCell` is on a GPU, with the derivatives that torch gives it."""
    return torch.ops.aten._thnn_fused_gru_cell(*gates_of(s, u))[0].view(s.shape)


def plain_gru(s, u):
    return _gru(*gates_of(s, u))[0].view(s.shape)


def _gru(input_gates, hidden_gates, hx):
    (ir, ii, i), (hr, hi, h) = input_gates.chunk(3, -1), hidden_gates.chunk(3, -1)
    reset, keep = torch.sigmoid(ir + hr), torch.sigmoid(ii + hi)
    new = torch.tanh(i + reset * h)
    return new + keep * (hx - new), torch.cat([reset, keep, new, hx, h], -1)


def _gru_backward(g, workspace, has_bias):
    reset, keep, new, hx, h = workspace.chunk(5, -1)
    of_keep = g * (hx - new) * keep * (1 - keep)
    of_new = g * (1 - keep) * (1 - new * new)
    of_reset = of_new * h * reset * (1 - reset)
    of_hidden = torch.cat([of_reset, of_keep, of_new * reset], -1)
    return torch.cat([of_reset, of_keep, of_new], -1), of_hidden, g * keep, None, None


KERNELS = torch.library.Library("aten", "IMPL")
"""Kernels for the CPU and for shapes alone, where torch has none, of an operation whose derivatives are torch's own."""
for device in "CPU", "Meta":  # a compiler asks for shapes on meta
    KERNELS.impl("_thnn_fused_gru_cell", lambda i, h, hx, *biases: _gru(i, h, hx), device)
    KERNELS.impl("_thnn_fused_gru_cell_backward", _gru_backward, device)

REFUSING = {
    "without-jvp": (of_function(WithoutJvp), in_plain_operations),
    "older": (of_function(Older), in_plain_operations),
    "once": (of_function(Once), in_plain_operations),
    "fused-gru": (fused_gru, plain_gru),
}
"""Pairs of a recurrence that refuses forward mode and the same in plain operations."""
