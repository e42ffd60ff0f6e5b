"""The arguments of a layer as a batch of sequences, its results in the user's form, and what torch answers itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lds_iter._torch import autocast_is_on
from lds_iter.nn._sequences import Lengths, like_input, time_first

SHORT_STEPS = 500
"""Up to this many time steps torch's kernel computes a float32 LSTM on a CPU. It takes 0.35 us a step for a small state
(oneDNN, one thread); the overhead around compiled steps is about 0.2 ms per call."""

FEW_SEQUENCES, MATRIX_UNITS = range(2, 9), 32
"""In training, torch's kernel computes a float32 LSTM of so many sequences, and on several threads of any number, from
this width on: for T = 2,000, D = 64, batch 32 compiled steps reach 0.77 of its speed on two threads, 1.2 on one.
Without gradients it computes all batches of two and more: its products are of matrices there, and compiled steps reach
0.5 to 1 of its speed (`python -m bench.steps`)."""

WIDE_LSTM_UNITS = 128
"""From this width on torch's kernel computes a single sequence, too, in training and on several threads. Compiled steps
reach 0.93 of its speed there, and 0.57 to 0.83 on two threads."""


def torch_is_faster(module: torch.nn.RNNBase, input: Any) -> bool:
    """Whether torch's kernel for an LSTM is faster than compiled steps. The first test of a forward."""
    if module.mode != "LSTM" or module.proj_size or not isinstance(input, Tensor) or not 2 <= input.dim() <= 3:
        return False
    if input.dtype != torch.float32 or input.device.type != "cpu":
        return False
    length, batch = (input.shape[0], 1) if input.dim() == 2 else input.shape[:2]
    if module.batch_first and input.dim() == 3:
        length, batch = batch, length
    if length <= SHORT_STEPS:
        return True
    if not torch.is_grad_enabled():
        return batch > 1 or (module.hidden_size >= WIDE_LSTM_UNITS and torch.get_num_threads() > 1)
    several = batch in FEW_SEQUENCES or (batch > 1 and torch.get_num_threads() > 1)
    return module.hidden_size >= (MATRIX_UNITS if several else WIDE_LSTM_UNITS if batch == 1 else math.inf)


@dataclass(frozen=True)
class Sequences:
    """The arguments of one call of a layer.

    Attributes:
        input: as the user gave it.
        x: `(T, B, D_in)`, in the dtype to compute in.
        lengths: where sequences have unequal lengths.
        start: initial h, and c for an LSTM, `(layers * directions, B, D)`.
        dtype: of output and final states, as torch has it.
    """

    input: Any
    x: Tensor
    lengths: Lengths | None
    start: tuple[Tensor, ...]
    dtype: torch.dtype

    @staticmethod
    def of(module: torch.nn.RNNBase, input: Any, hx: Any) -> Sequences | None:
        """Sort the arguments. None for an empty batch, and for malformed arguments: torch's own `forward` then computes
        the result or raises its own error."""
        states = _initial_states(module, input, hx)
        if states is None:
            return None
        given = input.data if isinstance(input, PackedSequence) else input
        weight = _weight(module)
        compute = torch.promote_types(weight.dtype, torch.float32)  # half precision is too coarse for residuals
        dtype = _output_dtype(module, weight, given, None if hx is None else states)
        x, lengths = time_first(input, module.batch_first)
        if any(tensor.dtype != compute for tensor in (x, *states)):
            x, states = x.to(compute), tuple(state.to(compute) for state in states)
        return Sequences(input, x, lengths, states, dtype)

    def results(self, module: torch.nn.RNNBase, output: Tensor, finals: tuple[Tensor, ...]) -> tuple[Any, Any]:
        """The results in the form that the layer returns.

        Args:
            module: the layer.
            output: of its last layer, `(T, B, directions * D)`.
            finals: like `start`.
        """
        if output.dtype != self.dtype:
            output, finals = output.to(self.dtype), tuple(final.to(self.dtype) for final in finals)
        if not isinstance(self.input, PackedSequence) and self.input.dim() == 2:
            finals = tuple(final.squeeze(1) for final in finals)
        shaped = like_input(output, self.input, self.lengths, module.batch_first)
        return shaped, finals if isinstance(module, torch.nn.LSTM) else finals[0]


def _initial_states(module: torch.nn.RNNBase, input: Any, hx: Any) -> tuple[Tensor, ...] | None:
    packed = isinstance(input, PackedSequence)
    x = input.data if packed else input
    if not isinstance(x, Tensor) or x.layout != torch.strided or (not packed and x.dim() not in (2, 3)):
        return None
    if x.numel() == 0:
        return None
    single = not packed and x.dim() == 2
    sizes = input.batch_sizes if packed else None
    shaped = x.unsqueeze(0 if module.batch_first else 1) if single else x
    states = _zeros(module, shaped, sizes) if hx is None else _given(module, x, hx, 2 if single else 3)
    weight = _weight(module)
    if states is None or any(state.device != x.device for state in (weight, *states)):
        return None
    if single and hx is not None:
        states = tuple(state.unsqueeze(1) for state in states)
    hidden: Any = states if isinstance(module, torch.nn.LSTM) else states[0]
    module.check_forward_args(shaped, hidden, sizes)
    return states


def _zeros(module: torch.nn.RNNBase, x: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor, ...]:
    batch = x.shape[0 if module.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
    lead = module.num_layers * (2 if module.bidirectional else 1)
    h = x.new_zeros(lead, batch, module.proj_size or module.hidden_size)
    return (h, x.new_zeros(lead, batch, module.hidden_size)) if isinstance(module, torch.nn.LSTM) else (h,)


def _given(module: torch.nn.RNNBase, x: Tensor, hx: Any, dims: int) -> tuple[Tensor, ...] | None:
    """The user's initial states; None unless they are tensors of the right number, dimensions and dtype."""
    lstm, weight = isinstance(module, torch.nn.LSTM), _weight(module)
    if lstm and not (isinstance(hx, tuple | list) and len(hx) == 2):
        return None
    states: tuple[Any, ...] = tuple(hx) if lstm else (hx,)
    if not all(isinstance(h, Tensor) and h.dim() == dims for h in states):
        return None
    return states if all(h.dtype == x.dtype for h in states) or _mixes(x, weight, *states) else None


def _mixes(*tensors: Tensor) -> bool:
    """Whether torch accepts these tensors together although their dtypes differ: autocast casts all but float64."""
    device = tensors[0].device.type
    floating = all(tensor.is_floating_point() and tensor.dtype != torch.float64 for tensor in tensors)
    return autocast_is_on(device) and floating


def _output_dtype(module: torch.nn.RNNBase, weight: Tensor, x: Tensor, given: tuple[Tensor, ...] | None) -> torch.dtype:
    """The dtype of torch's results. Under autocast a GRU on a CPU keeps the wider dtype of its initial state."""
    device = x.device.type
    if not _mixes(x, weight):
        return weight.dtype
    lower = torch.get_autocast_dtype(device)
    if isinstance(module, torch.nn.GRU) and device == "cpu":
        return torch.promote_types(x.dtype if given is None else given[0].dtype, lower)
    return lower


def _weight(module: torch.nn.RNNBase) -> Tensor:
    """One of its weights, which all have the same dtype and device."""
    return module.weight_hh_l0  # pyright: ignore[reportReturnType]
