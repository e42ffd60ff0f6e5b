"""The Triton kernels of the cells of `lds_iter.nn` as custom operations: steps with what quasi-Newton and block Newton
need of their Jacobians. Whole iterations: `kernels.triton.cells`.

Triton is imported when a kernel first runs. None of them is differentiable: `fused` says no where a gradient is wanted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.kernels.triton.scans.cuda import TRITON, WIDEST


def fused(state: Tensor, weight: Tensor) -> bool:
    """Whether a step at these states runs as one kernel: float32 on CUDA, no gradient wanted, weights that fit.

    Args:
        state: `(n, *batch, ...)`.
        weight: of all gates, `(gates D, D)`.
    """
    return runs_on(state) and state.dtype == weight.dtype == torch.float32 and weight.shape[-1] <= WIDEST and (
        not torch.is_grad_enabled()
    )  # fmt: skip


def runs_on(state: Tensor) -> bool:
    """Whether Triton serves the device of a tensor."""
    return TRITON and state.is_cuda


@torch.library.custom_op("lds_iter::gru_step", mutates_args=())
def gru_step(
    h: Tensor, u_r: Tensor, u_z: Tensor, u_n: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A GRU's next states and the diagonals of its Jacobians; reference: `nn.gru.GRUDerivatives`.

    Args:
        h: `(n, *batch, D)`.
        u_r, u_z, u_n: pre-activations, like `h`.
        weight: `(3 D, D)`.
        bias: of the gate n, `(D)`.
    """
    from lds_iter.kernels.triton.cells import gru_step as kernel

    gates = (_flat(u_r), _flat(u_z), _flat(u_n))
    with torch.cuda.device_of(h):
        value, slope = kernel.step(_flat(h), gates, weight.contiguous(), bias.contiguous())
    return value.view(h.shape), slope.view(h.shape)


@gru_step.register_fake
def _(
    h: Tensor, u_r: Tensor, u_z: Tensor, u_n: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return h.new_empty(h.shape), h.new_empty(h.shape)


@torch.library.custom_op("lds_iter::lstm_step", mutates_args=())
def lstm_step(
    s: Tensor, u_i: Tensor, u_f: Tensor, u_g: Tensor, u_o: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """An LSTM's next states and the 2x2 blocks of its Jacobians; reference: `nn.lstm.LSTMDerivatives`.

    Args:
        s: h and c in pairs, `(n, *batch, 2 D)`.
        u_i, u_f, u_g, u_o: pre-activations, `(n, *batch, D)`.
        weight: `(4 D, D)`.
    """
    from lds_iter.kernels.triton.cells import lstm_step as kernel

    gates = [_flat(u) for u in (u_i, u_f, u_g, u_o)]
    with torch.cuda.device_of(s):
        value, blocks = kernel.step(_flat(s), gates, weight.contiguous())
    return value.view(s.shape), blocks.view(*u_i.shape, 2, 2)


@lstm_step.register_fake
def _(
    s: Tensor, u_i: Tensor, u_f: Tensor, u_g: Tensor, u_o: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return s.new_empty(s.shape), s.new_empty(*u_i.shape, 2, 2)


@torch.library.custom_op("lds_iter::rnn_step", mutates_args=())
def rnn_step(h: Tensor, u: Tensor, weight: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """A plain network's next states and the diagonals of its Jacobians; reference: `nn.rnn.RNNDerivatives`.

    Args:
        h: `(n, *batch, D)`.
        u: pre-activations, like `h`.
        weight: `(D, D)`.
        relu: of the two nonlinearities, the one that is not tanh.
    """
    from lds_iter.kernels.triton.cells import rnn_step as kernel

    with torch.cuda.device_of(h):
        value, slope = kernel.step(_flat(h), _flat(u), weight.contiguous(), relu)
    return value.view(h.shape), slope.view(h.shape)


@rnn_step.register_fake
def _(h: Tensor, u: Tensor, weight: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), h.new_empty(h.shape)


def _flat(x: Tensor) -> Tensor:
    """Contiguous, the batch dimensions as one."""
    return x.reshape(x.shape[0], -1, x.shape[-1]).contiguous()
