"""Whole iterations of the cells of `lds_iter.nn` on CUDA, as custom operations, and their adapters to the loop.

One launch maps pre-activations and states to the next iterate, and another combines the measurements; reference:
`lds_iter.loop`.
Triton is imported when a kernel first runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lds_iter.kernels.forms import Form
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.recurrence import IterationRequest, IterationResult

Found = tuple[Tensor, Tensor, Tensor, Tensor]
"""The fields of `lds_iter.kernels.triton.cells.settling.Outcome`."""


def _fits(request: IterationRequest, u: tuple[Tensor, ...], weight: Tensor) -> bool:
    """Whether a kernel serves these states: see `cells.fused`; they must be contiguous, as those of the loop are."""
    tensors = (request.states, request.proposal, *u)
    plain = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return plain and cells.fused(request.states, weight) and request.lo.numel() > 0


def _rest(at: IterationRequest) -> tuple[Any, ...]:
    """The last arguments of the operations, from `new` on, with the batch as one dimension."""
    s0 = at.s0.reshape(-1, at.states.shape[-1]).contiguous()
    lo, hi = (times.reshape(-1).contiguous() for times in (at.lo, at.hi))
    return _rows(at.proposal[1:]), s0, at.start, lo, hi, at.rtol, at.atol


def _settled(request: IterationRequest, found: Found) -> IterationResult:
    """The measurements of an operation as an `IterationResult`, by sequence."""
    lo, measured, resets, broken = found
    batch = request.lo.shape
    residual, excess, accepted = (part.view(batch) for part in measured.unbind(-1))
    return IterationResult(lo.view(batch), residual, excess, accepted, resets.view(batch), broken.view(batch))


def gru(form: Form | None, request: IterationRequest, u: Any, weight: Tensor, bias: Tensor) -> IterationResult | None:
    """A quasi-Newton iteration of a GRU; None where the loop must do it."""
    if form is not Form.DIAGONAL or not _fits(request, u, weight):
        return None
    gates = [_rows(gate) for gate in u]
    own = (*gates, weight.contiguous(), bias.contiguous())
    return _settled(request, gru_iteration_(_rows(request.states), *own, *_rest(request)))


def rnn(form: Form | None, request: IterationRequest, u: Tensor, weight: Tensor, relu: bool) -> IterationResult | None:
    """A quasi-Newton iteration of a plain network; None where the loop must do it."""
    if form is not Form.DIAGONAL or not _fits(request, (u,), weight):
        return None
    own = (_rows(u), weight.contiguous(), relu)
    return _settled(request, rnn_iteration_(_rows(request.states), *own, *_rest(request)))


def lstm(form: Form | None, request: IterationRequest, u: Any, weight: Tensor) -> IterationResult | None:
    """An iteration of an LSTM with the 2x2 blocks of its Jacobians; None where the loop must do it."""
    if form is not Form.BLOCKS or not _fits(request, u, weight):
        return None
    gates = [_rows(gate) for gate in u]
    own = (*gates, weight.contiguous())
    return _settled(request, lstm_iteration_(_rows(request.states), *own, *_rest(request)))


def _rows(x: Tensor) -> Tensor:
    """The batch dimensions as one; of a contiguous tensor a view."""
    return x.view(x.shape[0], -1, x.shape[-1])


@torch.library.custom_op("lds_iter::gru_iteration_", mutates_args=("new",))
def gru_iteration_(
    states: Tensor, u_r: Tensor, u_z: Tensor, u_n: Tensor, weight: Tensor, bias: Tensor,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    """A quasi-Newton iteration of a GRU; reference: `lds_iter.loop`, with `nn.gru.GRUDerivatives`. All contiguous.

    Args:
        states: the state before each row and, last, the one after them, `(n + 1, B, D)`.
        u_r, u_z, u_n: pre-activations, `(n, B, D)`.
        weight: `(3 D, D)`.
        bias: of the gate n, `(D)`.
        new: takes the next iterate of the rows, `(n, B, D)`.
        s0: what rows fall back to where nothing is finite, `(B, D)`.
        start: the time of the first row.
        lo, hi: the rows of each sequence that may move, int64, `(B)`, contiguous.
        rtol, atol: of the stopping rule.
    """
    from lds_iter.kernels.triton.cells import gru_step

    rest = {"new": new, "s0": s0, "start": start, "lo": lo, "hi": hi, "rtol": rtol, "atol": atol}
    with torch.cuda.device_of(states):
        return _plain(gru_step.gru_iteration(states, (u_r, u_z, u_n), weight, bias, **rest))


@torch.library.custom_op("lds_iter::rnn_iteration_", mutates_args=("new",))
def rnn_iteration_(
    states: Tensor, u: Tensor, weight: Tensor, relu: bool,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    """A quasi-Newton iteration of a plain network; reference: `lds_iter.loop`, with `nn.rnn.RNNDerivatives`.

    Args:
        states: see `gru_iteration_`, as for `new` and what follows it.
        u: pre-activations, `(n, B, D)`.
        weight: `(D, D)`.
        relu: of the two nonlinearities, the one that is not tanh.
    """
    from lds_iter.kernels.triton.cells import rnn_step

    rest = {"new": new, "s0": s0, "start": start, "lo": lo, "hi": hi, "rtol": rtol, "atol": atol}
    with torch.cuda.device_of(states):
        return _plain(rnn_step.rnn_iteration(states, u, weight, relu, **rest))


@torch.library.custom_op("lds_iter::lstm_iteration_", mutates_args=("new",))
def lstm_iteration_(
    states: Tensor, u_i: Tensor, u_f: Tensor, u_g: Tensor, u_o: Tensor, weight: Tensor,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    """An iteration of an LSTM by the 2x2 blocks of its Jacobians; reference: `lds_iter.loop`, with `LSTMDerivatives`.

    Args:
        states: h and c in pairs, `(n + 1, B, 2 D)`; see `gru_iteration_`, as for `new` and what follows it.
        u_i, u_f, u_g, u_o: pre-activations, `(n, B, D)`.
        weight: `(4 D, D)`.
    """
    from lds_iter.kernels.triton.cells import lstm_step

    rest = {"new": new, "s0": s0, "start": start, "lo": lo, "hi": hi, "rtol": rtol, "atol": atol}
    with torch.cuda.device_of(states):
        return _plain(lstm_step.lstm_iteration(states, [u_i, u_f, u_g, u_o], weight, **rest))


def _plain(found: Found) -> Found:
    """An outcome as a plain tuple: operations return no named tuples."""
    lo, measured, resets, broken = found
    return lo, measured, resets, broken


def _found(new: Tensor, lo: Tensor) -> Found:
    batch = lo.shape
    return lo.new_empty(batch), new.new_empty(*batch, 3), lo.new_empty(batch), lo.new_empty(batch, dtype=torch.bool)


@gru_iteration_.register_fake
def _(
    states: Tensor, u_r: Tensor, u_z: Tensor, u_n: Tensor, weight: Tensor, bias: Tensor,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    return _found(new, lo)


@rnn_iteration_.register_fake
def _(
    states: Tensor, u: Tensor, weight: Tensor, relu: bool,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    return _found(new, lo)


@lstm_iteration_.register_fake
def _(
    states: Tensor, u_i: Tensor, u_f: Tensor, u_g: Tensor, u_o: Tensor, weight: Tensor,
    new: Tensor, s0: Tensor, start: int, lo: Tensor, hi: Tensor, rtol: float, atol: float,
) -> Found:  # fmt: skip
    return _found(new, lo)
