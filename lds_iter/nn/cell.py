"""One recurrence for all cells of `torch.nn`, made of a `CellSpec`: what `solve` and `sequential` use.

Where compiled code cannot serve (other devices and types, second derivatives, `torch.func`, tracing) the same comes
from plain torch operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from lds_iter import _torch
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.kernels.forms import Form
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.methods.base import LDSApproximation
from lds_iter.methods.block_newton import BlockNewton
from lds_iter.methods.newton import Newton
from lds_iter.methods.quasi_newton import QuasiNewton
from lds_iter.nn._fused import FusedDerivatives
from lds_iter.nn._gradient import stepped
from lds_iter.nn._step_gradient import Step
from lds_iter.nn.cell_spec import BoundCell, Gates, gates_of, slices
from lds_iter.recurrence import IterationRequest, IterationResult

PAIRS = BlockNewton(2)
FORMS = ((Newton(), Form.FULL), (QuasiNewton(), Form.DIAGONAL), (PAIRS, Form.BLOCKS))


class CellRecurrence(BoundCell, ABC):
    """One layer and direction of a network of `torch.nn` as a recurrence `s' = f(s, u)`.

    Its inputs are the pre-activations that `inputs(x)` returns, not `x` itself.

    Args:
        spec: the kind of cell.
        weights: of the layer.
    """

    @staticmethod
    @abstractmethod
    def from_module(module: Any, layer: int = 0, *, backward: bool = False) -> CellRecurrence:
        """One layer and direction of a layer of `torch.nn`; the tensors are shared, not copied."""

    def inputs(self, x: Tensor) -> Any:
        """The pre-activations that `x` contributes to each gate.

        Args:
            x: the input sequence, `(T, *batch, D_in)`.

        Returns:
            A tuple of `(T, *batch, D)`, one for each gate; the tensor itself where there is one gate.
        """
        # A product and an addition in place: on a CPU less than half the time of `addmm`.
        gates: Gates = tuple(x @ weight.T for weight in slices(self.weights.ih, self.width))
        if self.weights.bias is not None:
            biases = slices(self.weights.bias, self.width)
            gates = tuple(gate.add_(bias) for gate, bias in zip(gates, biases, strict=True))
        return gates if self.spec.gates > 1 else gates[0]  # pyright: ignore[reportGeneralTypeIssues]

    def __call__(self, s: Tensor, u: Any) -> Tensor:
        """One step for every row, from states `(n, *batch, parts D)` and inputs that lead with n."""
        if self._compiled is None:
            return self.plain(s, u).value
        tensors = self.tensors(u)
        if self._compiled.serves_with_gradients(s, tensors):
            return Step.apply(self, s, *self.leaves(u))  # pyright: ignore[reportReturnType]
        done = self._compiled.step(s, tensors, blocks=False)
        return self.plain(s, u).value if done is None else done[0]

    def linearize(self, s: Tensor, u: Any) -> AbstractDerivatives:
        """The value and the closed-form derivatives.

        The blocks of each channel come with the value from one kernel, in compiled code on a CPU and on CUDA up to
        D = 64.
        """
        if self._compiled is None:
            return self.plain(s, u)
        if cells.fused(s, self.weights.hh):
            value, blocks = self.spec.device_step(s, gates_of(u), self.weights)
            return FusedDerivatives(value, blocks, lambda: self.plain(s, u))
        compiled, tensors = self._compiled, self.tensors(u)
        done = compiled.step(s, tensors, blocks=True)
        if done is None or done[1] is None:
            return self.plain(s, u)
        return FusedDerivatives(done[0], done[1], lambda: self.plain(s, u), lambda: compiled.jacobian(s, tensors))

    def steps(self, s0: Tensor, u: Any) -> Tensor | None:
        """All states, step by step in compiled code, with a gradient where one is wanted.

        Args:
            s0: `(*batch, parts D)`.
            u: of all time steps, `(T, *batch, D)` each.

        Returns:
            `(T, *batch, parts D)`; None where compiled code cannot serve.
        """
        return stepped(self, s0, u)

    def fused_iteration(self, request: IterationRequest) -> IterationResult | None:
        """A whole iteration, in compiled code on a CPU and in one launch on CUDA; None where the loop must do it."""
        if self._compiled is None:
            return None
        form = self._form(request.method)
        if not _torch.on_host(request.s0):
            return self.spec.device_iteration(form, request, gates_of(request.inputs), self.weights)
        return None if form is None else self._compiled.iteration(form, request, self.tensors(request.inputs))

    def _form(self, method: LDSApproximation) -> Form | None:
        """The form of `A_t` in compiled iterations of the method; None where there is no compiled iteration."""
        form = next((form for known, form in FORMS if method == known), None)
        return None if form is Form.BLOCKS and self.spec.compiled.parts != PAIRS.size else form
