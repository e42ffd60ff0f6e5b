"""The compiled cells of `lds_iter.nn`: `gru.cpp`, `lstm.cpp`, `rnn.cpp`; their common code is in `cell*.h`.

A cell is called with the states and with one tuple of tensors: what the inputs contribute to each gate, the matrices,
and the bias of the last product where there is one. Reference: the plain torch operations of `lds_iter.nn` and, for
iterations and adjoints, the loop in `lds_iter.loop`. Methods return None where those must serve.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lds_iter.kernels.cpu.build import function
from lds_iter.kernels.cpu.plain import addresses, plain, traced
from lds_iter.kernels.forms import Form
from lds_iter.recurrence import IterationRequest, IterationResult

WIDEST_CACHED = 768
"""Up to this width times gates the weights of one vector of channels fit the first-level cache; beyond, a matrix
library wins."""

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class CompiledCell:
    """The compiled functions of one cell.

    Attributes:
        source: the file.
        gates: how many matrices there are, and inputs.
        parts: how many numbers a channel has in the state; they lie side by side, the one that is multiplied first.
        made: how many tensors `gradients` returns.
        to_inputs: which of these are the gradients of the inputs.
        variant: the middle of the functions' names.
    """

    source: str
    gates: int
    parts: int
    made: int
    to_inputs: tuple[int, ...]
    variant: str = ""

    def step(self, s: Tensor, tensors: Tensors, *, blocks: bool) -> tuple[Tensor, Tensor | None] | None:
        """The value and the blocks of the Jacobian within the channels, in one pass over memory.

        Args:
            s: the previous states, `(n, *batch, parts D)`.
            tensors: inputs `(n, *batch, D)`, matrices `(D, D)`, bias `(D)`.
            blocks: whether to compute the blocks too, `(n, *batch, D, parts, parts)`.
        """
        run = self._function("step", 7, s.dtype) if self._serves(s, tensors) else None
        if run is None:
            return None
        value, width = torch.empty_like(s), tensors[0].shape[-1]
        slopes = s.new_empty(*tensors[0].shape, self.parts, self.parts) if blocks else None
        table = addresses(*tensors)
        run(
            ctypes.addressof(table), s.data_ptr(), value.data_ptr(), 0 if slopes is None else slopes.data_ptr(),
            tensors[0].numel() // width, width, torch.get_num_threads(),
        )  # fmt: skip
        return value, slopes

    def jacobian(self, s: Tensor, tensors: Tensors) -> Tensor | None:
        """The Jacobians of the step, `(n, *batch, parts D, parts D)`; takes its arguments as `step` does."""
        run = self._function("jacobian", 6, s.dtype) if self._serves(s, tensors) else None
        if run is None:
            return None
        out, table, width = s.new_empty(*s.shape, s.shape[-1]), addresses(*tensors), tensors[0].shape[-1]
        run(
            ctypes.addressof(table), s.data_ptr(), out.data_ptr(), tensors[0].numel() // width, width,
            torch.get_num_threads(),
        )  # fmt: skip
        return out

    def serves_with_gradients(self, s: Tensor, tensors: Tensors) -> bool:
        """Whether `step` and `gradients` would serve, and a gradient is wanted."""
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (s, *tensors)):
            return False
        return self._readable(s, tensors) and self._function("gradients", 8, s.dtype) is not None

    def gradients(self, s: Tensor, tensors: Tensors, g: Tensor, *, matrices: bool) -> tuple[Tensors, Tensors] | None:
        """For the gradient `g` of the value those that the cell's source names, `(n, *batch, D)` each.

        Args:
            s: see `step`.
            tensors: see `step`.
            g: like `s`.
            matrices: whether those of the matrices are wanted, `(D, D)` each.
        """
        g = g.contiguous() if not traced() else g
        serves = self._serves(s, tensors) and plain(g, dtype=s.dtype)
        run = self._function("gradients", 8, s.dtype) if serves else None
        if run is None:
            return None
        out, width = tuple(torch.empty_like(tensors[0]) for _ in range(self.made)), tensors[0].shape[-1]
        squares = s.new_empty(self.gates if matrices else 0, width, width)
        table, made = addresses(*tensors), addresses(*out)
        run(
            ctypes.addressof(table), s.data_ptr(), g.data_ptr(), ctypes.addressof(made),
            squares.data_ptr() if matrices else 0, tensors[0].numel() // width, width, torch.get_num_threads(),
        )  # fmt: skip
        return out, squares.unbind()

    def adjoint(self, s: Tensor, tensors: Tensors, g: Tensor) -> Tensor | None:
        """All `l_t = g_t + J_{t+1}^T l_{t+1}`, one row after the other, with the work of a product by each matrix.

        Args:
            s: the state before each row, `(T, *batch, parts D)`.
            tensors: see `step`.
            g: like `s`.
        """
        g = g.contiguous()
        serves = self._serves(s, tensors) and plain(g, dtype=s.dtype)
        run = self._function("adjoint", 8, s.dtype) if serves else None
        if run is None:
            return None
        out, n, width = torch.empty_like(s), s.shape[0], tensors[0].shape[-1]
        table = addresses(*tensors)
        run(
            ctypes.addressof(table), s.data_ptr(), g.data_ptr(), out.data_ptr(), n, tensors[0].numel() // (n * width),
            width, torch.get_num_threads(),
        )  # fmt: skip
        return out

    def iteration(self, form: Form, request: IterationRequest, tensors: Tensors) -> IterationResult | None:
        """One iteration, in which a full Jacobian is never formed.

        Args:
            form: of `A_t`.
            request: over states of `parts D` numbers.
            tensors: see `step`; the rows at hand.
        """
        prev, spare = request.states[:-1], request.proposal
        if not self._serves(prev, tensors) or not plain(spare, dtype=prev.dtype) or not spare.is_contiguous():
            return None
        run = self._sweep(prev.dtype)
        if run is None:
            return None
        lo, hi = request.lo.clone(memory_format=torch.contiguous_format), request.hi.contiguous()
        found, table = prev.new_empty(3, *lo.shape), addresses(*tensors)
        flawed = run(
            ctypes.addressof(table), prev.data_ptr(), spare[1:].data_ptr(), found.data_ptr(), lo.data_ptr(),
            hi.data_ptr(), request.start, prev.shape[0], lo.numel(), tensors[0].shape[-1], int(form),
            torch.get_num_threads(), request.rtol, request.atol,
        )  # fmt: skip
        residual, excess, accepted = found
        nothing = torch.zeros_like(lo)
        return IterationResult(lo, residual, excess, accepted, nothing, nothing > 0, finite=not flawed)

    def has_iteration(self, s: Tensor, tensors: Tensors) -> bool:
        """Whether `iteration` serves such rows."""
        return self._serves(s, tensors) and self._sweep(s.dtype) is not None

    def _sweep(self, dtype: torch.dtype) -> Callable[..., int] | None:
        return self._function("sweep", 12, dtype, 2)

    def _function(self, name: str, integers: int, dtype: torch.dtype, reals: int = 0) -> Callable[..., int] | None:
        return function(self.source, name + self.variant, dtype, integers, reals)

    def _serves(self, s: Tensor, tensors: Tensors) -> bool:
        graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (s, *tensors))
        return not graph and self._readable(s, tensors)

    def _readable(self, s: Tensor, tensors: Tensors) -> bool:
        width = tensors[0].shape[-1]
        return (
            not traced()
            and plain(s, *tensors, dtype=s.dtype)
            and s.is_contiguous()
            and all(tensor.is_contiguous() for tensor in tensors)
            and all(tensor.shape == (*s.shape[:-1], width) for tensor in tensors[: self.gates])
            and s.shape[-1] == self.parts * width
            and s.numel() > 0
            and width * self.gates <= WIDEST_CACHED
        )


COMPILED_GRU = CompiledCell("gru", gates=3, parts=1, made=5, to_inputs=(0, 1, 4))
COMPILED_LSTM = CompiledCell("lstm", gates=4, parts=2, made=5, to_inputs=(0, 1, 2, 3))
COMPILED_RNN_TANH = CompiledCell("rnn", gates=1, parts=1, made=1, to_inputs=(0,), variant="_tanh")
COMPILED_RNN_RELU = CompiledCell("rnn", gates=1, parts=1, made=1, to_inputs=(0,), variant="_relu")
