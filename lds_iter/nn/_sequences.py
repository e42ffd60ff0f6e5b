"""Sequences as the solves want them, time first and padded, from any form that `torch.nn` takes, and back.

A batch of unequal lengths is padded, and its recurrence masked (see `Masked`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


@dataclass(frozen=True)
class Lengths:
    """The lengths of the sequences of a padded batch.

    Attributes:
        lengths: int64 on the CPU, `(B)`.
        mask: 1 within a sequence, 0 in its padding, `(T, B, 1)`.
        order: the time that each row of the reversed sequences comes from, `(T, B, 1)`.
    """

    lengths: Tensor
    mask: Tensor
    order: Tensor

    @staticmethod
    def of(lengths: Tensor, x: Tensor) -> Lengths:
        here = lengths.to(x.device)
        times = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
        within = times < here
        order = torch.where(within, here - 1 - times, times).unsqueeze(-1)
        return Lengths(lengths, within.unsqueeze(-1).to(x.dtype), order)


def reverse(x: Tensor, lengths: Lengths | None) -> Tensor:
    """Every sequence of `(T, B, D)` backwards within its own length; its own inverse."""
    if lengths is None:
        return x.flip(0)
    return x.gather(0, lengths.order.expand(-1, -1, x.shape[-1]))


def last_rows(x: Tensor, lengths: Lengths | None) -> Tensor:
    """The last row of every sequence of `(T, B, D)`, `(B, D)`."""
    if lengths is None:
        return x[-1]
    index = (lengths.lengths.to(x.device) - 1).view(1, -1, 1).expand(1, -1, x.shape[-1])
    return x.gather(0, index)[0]


def time_first(x: Any, batch_first: bool) -> tuple[Tensor, Lengths | None]:
    """Any input of a `torch.nn` layer in the form `(T, B, D)`, in the user's order of the batch, and the lengths."""
    if isinstance(x, PackedSequence):
        padded, lengths = pad_packed_sequence(x)
        uniform = bool((lengths == lengths[0]).all())
        return padded, None if uniform else Lengths.of(lengths, padded)
    if x.dim() == 2:
        return x.unsqueeze(1), None
    return (x.transpose(0, 1) if batch_first else x).contiguous(), None


def like_input(output: Tensor, x: Any, lengths: Lengths | None, batch_first: bool) -> Tensor | PackedSequence:
    """`(T, B, D)` in the form that the input had."""
    if isinstance(x, PackedSequence):
        batch = output.shape[1]
        each = torch.full((batch,), output.shape[0], device="cpu") if lengths is None else lengths.lengths
        if x.sorted_indices is not None:
            output, each = output.index_select(1, x.sorted_indices), each[x.sorted_indices.cpu()]
        data = pack_padded_sequence(output, each).data
        return PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    if x.dim() == 2:
        return output.squeeze(1)
    return output.transpose(0, 1) if batch_first else output
