"""The description of a kind of cell, its weights, and both together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from torch import Tensor
from torch.nn import functional

from lds_iter._torch import kept
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.kernels.cpu.cells import CompiledCell, Tensors
from lds_iter.kernels.forms import Form
from lds_iter.recurrence import IterationRequest, IterationResult

Gates: TypeAlias = tuple[Tensor, ...]
"""The contributions of the inputs to the gates, `(n, *batch, D)` each."""


class CellDerivatives(AbstractDerivatives):
    """The step of a cell, its Jacobian, and the gradients of all tensors that enter the step."""

    @abstractmethod
    def gradients(self, g: Tensor) -> tuple[Tensor, ...]:
        """From the gradient `g` of the value, the tensors that `CompiledCell.gradients` returns, in its order."""


class CellWeights:
    """The weights of one layer and direction.

    Attributes:
        ih: `(gates D, D_in)`.
        hh: `(gates D, D)`, or `(gates D, P)` with a projection.
        bias: added to the product of the inputs, `(gates D)`, or None.
        inner_bias: added to the recurrent product of the last gate, `(D)`; None for a cell without one.
        hr: the projection, `(P, D)`, or None.
        width: D.
    """

    def __init__(
        self, ih: Tensor, hh: Tensor, bias: Tensor | None, inner_bias: Tensor | None, hr: Tensor | None
    ) -> None:
        self.ih, self.hh, self.bias, self.inner_bias, self.hr = ih, hh, bias, inner_bias, hr
        self.width: int = hh.shape[1] if hr is None else hr.shape[1]

    @kept
    def gates(self) -> Gates:
        """The recurrent matrix of each gate."""
        return slices(self.hh, self.width)

    @kept
    def effective(self) -> Gates:
        """The matrices that multiply the state: `W_hh W_hr` with a projection, for the derivatives only."""
        return self.gates if self.hr is None else slices(self.hh @ self.hr, self.width)

    @kept
    def diagonals(self) -> Gates:
        """The diagonals of the effective matrices, `(D)` each."""
        return tuple(weight.diagonal().contiguous() for weight in self.effective)

    @property
    def leaves(self) -> Tensors:
        """The tensors that a step reads."""
        return tuple(leaf for leaf in (self.hh, self.inner_bias, self.hr) if leaf is not None)

    def with_leaves(self, leaves: Tensors) -> CellWeights:
        """The same with other tensors in place of `leaves`."""
        hh, *rest = leaves
        inner_bias = None if self.inner_bias is None else rest.pop(0)
        return CellWeights(self.ih, hh, self.bias, inner_bias, rest[0] if rest else None)


@dataclass(frozen=True)
class CellSpec:
    """The description of one kind of cell.

    Attributes:
        gates: how many there are, in torch's order.
        inner_bias: whether the recurrent bias of the last gate stays with its product, as in a GRU.
        compiled: its functions on a CPU.
        to_state: which of the tensors that `CompiledCell.gradients` makes belongs to each part of the state, besides
            what comes through the products; None where there is none.
        derivatives: of states, gates and weights, in plain torch operations.
        device_step: value and blocks of the Jacobian of states, gates and weights, in one kernel on CUDA.
        device_iteration: a whole iteration on CUDA, of form, request, gates and weights.
        pack: the initial states of torch, h or (h, c), as the state of the recurrence.
        output: states `(..., parts D)` as the output of the layer.
        final: the last state as torch returns it, (h,) or (h, c).
    """

    gates: int
    inner_bias: bool
    compiled: CompiledCell
    to_state: tuple[int | None, ...]
    derivatives: Callable[[Tensor, Gates, CellWeights], CellDerivatives]
    device_step: Callable[[Tensor, Gates, CellWeights], tuple[Tensor, Tensor]]
    device_iteration: Callable[[Form | None, IterationRequest, Gates, CellWeights], IterationResult | None]
    pack: Callable[[tuple[Tensor, ...], CellWeights], Tensor]
    output: Callable[[Tensor, CellWeights], Tensor]
    final: Callable[[Tensor, CellWeights], tuple[Tensor, ...]]

    def weights(
        self, ih: Tensor, hh: Tensor, bias_ih: Tensor | None, bias_hh: Tensor | None, hr: Tensor | None = None
    ) -> CellWeights:
        """The weights as torch names them, checked and sorted.

        Raises:
            ValueError: when shapes do not fit the kind of cell.
        """
        width, rows = hh.shape[-1] if hr is None else hr.shape[-1], "D" if self.gates == 1 else f"{self.gates} D"
        square = hr is not None or hh.shape == (self.gates * width, width)
        if not square or hh.shape[0] != self.gates * width or ih.ndim != 2 or ih.shape[0] != self.gates * width:
            raise ValueError(
                f"`weight_ih` and `weight_hh` must have shapes ({rows}, D_in) and ({rows}, D), got "
                f"{tuple(ih.shape)} and {tuple(hh.shape)}."
            )
        if not self.inner_bias:
            return CellWeights(ih, hh, _sum(bias_ih, bias_hh), None, hr)
        inner = hh.new_zeros(width) if bias_hh is None else bias_hh.narrow(0, (self.gates - 1) * width, width)
        # The recurrent biases of the other gates add to those of the inputs.
        outer = None if bias_hh is None else functional.pad(bias_hh[: (self.gates - 1) * width], (0, width))
        return CellWeights(ih, hh, _sum(bias_ih, outer), inner, hr)


class BoundCell:
    """A kind of cell with weights: the base of `CellRecurrence`, and what the gradients are made of.

    Args:
        spec: the kind of cell.
        weights: of the layer.
    """

    def __init__(self, spec: CellSpec, weights: CellWeights) -> None:
        self.spec, self.weights = spec, weights
        self.width = weights.width
        self._compiled = spec.compiled if weights.hr is None else None

    @property
    def projection(self) -> Tensor | None:
        """`W_hr`, `(P, D)`; None for all but an LSTM with a projection."""
        return self.weights.hr

    def leaves(self, u: Any) -> Tensors:
        """All tensors that a step reads besides the state: inputs, then weights."""
        return (*gates_of(u), *self.weights.leaves)

    def with_leaves(self, leaves: Tensors) -> tuple[Self, Any]:
        """The same recurrence and its inputs on other tensors, in the order of `leaves`."""
        count = self.spec.gates
        made = object.__new__(type(self))
        BoundCell.__init__(made, self.spec, self.weights.with_leaves(leaves[count:]))
        return made, leaves[:count] if count > 1 else leaves[0]

    def tensors(self, u: Any) -> Tensors:
        """The same with a matrix for each gate, as compiled code takes them."""
        inner = () if self.weights.inner_bias is None else (self.weights.inner_bias,)
        return (*gates_of(u), *self.weights.gates, *inner)

    def plain(self, s: Tensor, u: Any) -> CellDerivatives:
        """Value and derivatives in plain torch operations."""
        return self.spec.derivatives(s, gates_of(u), self.weights)

    def solve_adjoint(self, prev: Tensor, u: Any, g: Tensor) -> Tensor | None:
        """All `l_t = g_t + J_{t+1}^T l_{t+1}` in compiled code; None where the loop must solve that.

        Args:
            prev: the state before each row, `(T, *batch, parts D)`.
            u: see `steps`.
            g: like `prev`.
        """
        return None if self._compiled is None else self._compiled.adjoint(prev, self.tensors(u), g)


def gates_of(u: Any) -> Gates:
    """The inputs of a recurrence as a tuple, also for a cell with one gate."""
    return u if isinstance(u, tuple) else (u,)


def slices(x: Tensor, rows: int) -> Gates:
    """Consecutive parts of `x` with the given numbers of rows.

    Each is a view of its own, so that torch explains a change in place as it does for `x` itself; it does not for the
    views that `chunk` or `unbind` make together.
    """
    return tuple(x.narrow(0, first, rows) for first in range(0, x.shape[0], rows))


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """The sum of two biases. The two negations are exact, and give each bias a gradient in memory of its own; a plain
    sum would hand the same tensor to both."""
    if one is None or other is None:
        return other if one is None else one
    return one - other.neg()
