"""Which tensors a kernel may read through their addresses."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad


def traced() -> bool:
    """Whether operations are being recorded or transformed (torch.compile, torch.func, dual numbers), not just run."""
    return (
        torch.compiler.is_compiling()
        or _functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def plain(*tensors: Tensor, dtype: torch.dtype) -> bool:
    """Whether all are ordinary tensors of this type in main memory: no subclass, no fake, no lazy negation."""
    return all(
        (type(tensor) is Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.dtype == dtype
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_neg()
        and _has_address(tensor)
        for tensor in tensors
    )


def _has_address(tensor: Tensor) -> bool:
    try:
        tensor.data_ptr()
    except RuntimeError:  # the batched tensors of `torch.autograd.grad(is_grads_batched=True)` look like any other
        return False
    return True


def row_stride(x: Tensor) -> int | None:
    """The distance between rows of `x`, `(n, ...)`, whose numbers lie side by side; None where they do not."""
    if x.is_contiguous():
        return x.numel() // x.shape[0]
    return x.stride(0) if x[0].is_contiguous() else None


def kernel_rows(a: Tensor, x: Tensor, initial: Tensor | None) -> tuple[int, Tensor | None, int | None] | None:
    """What a scan kernel has to know of its tensors; None where it cannot work on them.

    Args:
        a: the numbers of the transition.
        x: `b` on entry, the solution on return, `(n, *batch, D)`.
        initial: the value before the first step.

    Returns:
        The row stride of `x`, the initial value in contiguous memory, and the row stride of `a` (None where its numbers
        do not lie side by side).
    """
    if traced() or x.numel() == 0 or not plain(a, x, *(() if initial is None else (initial,)), dtype=x.dtype):
        return None
    x_row = row_stride(x)
    if x_row is None:
        return None
    return x_row, None if initial is None else initial.expand(x.shape[1:]).contiguous(), row_stride(a)


def addresses(*tensors: Tensor | None) -> ctypes.Array[ctypes.c_int64]:
    """A table of where tensors begin, 0 for None; to be kept until the call that reads it is over."""
    return (ctypes.c_int64 * len(tensors))(*(0 if tensor is None else tensor.data_ptr() for tensor in tensors))
