"""The recurrence of `torch.nn.RNN`, with its derivatives in closed form.

h' = a(x + W h)        x: what the input contributes, computed once for all t; a = tanh or relu
J = diag(g) W          g = 1 - h'^2 for tanh, 1 where h' > 0 for relu
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lds_iter._torch import kept
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.kernels.cpu.cells import RNN_RELU, RNN_TANH, Tensors
from lds_iter.kernels.triton.cells import iterations
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.nn._compiled import Recipe
from lds_iter.nn._fused import FusedDerivatives
from lds_iter.nn._weights import check_shapes, layer_weights, own_blocks, product
from lds_iter.recurrence import IterationRequest, IterationResult

Slope = Callable[[Tensor], Tensor]

# The function, in place, its slope as a function of its value, and the compiled cell.
_NONLINEARITIES: dict[str, tuple[Callable[[Tensor], Tensor], Slope, Recipe]] = {
    "tanh": (torch.tanh_, lambda value: 1 - value * value, Recipe(RNN_TANH, inputs=(0,), direct=(None,))),
    "relu": (torch.relu_, lambda value: (value > 0).to(value.dtype), Recipe(RNN_RELU, inputs=(0,), direct=(None,))),
}


class RNNRecurrence:
    """One layer and direction of a plain recurrent network as a recurrence `h' = f(h, u)`.

    For `solve` and `sequential`. Its inputs are the pre-activations of `inputs(x)`, not `x` itself. Uses the parameter
    layout of `torch.nn.RNN`.

    Args:
        weight_ih: `(D, D_in)`.
        weight_hh: `(D, D)`.
        bias_ih: `(D)`, or None.
        bias_hh: `(D)`, or None.
        nonlinearity: "tanh" or "relu", as in `torch.nn.RNN`.
    """

    def __init__(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
        *,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        self.width = check_shapes(weight_ih, weight_hh, 1)
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(f'`nonlinearity` must be "tanh" or "relu", got {nonlinearity!r}.')
        self._weight_ih, self._weight = weight_ih, weight_hh
        biases = [bias for bias in (bias_ih, bias_hh) if bias is not None]
        self._bias = torch.stack(biases).sum(0) if biases else None
        self._diagonal = weight_hh.diagonal().contiguous()
        self._function, self._slope, self._compiled = _NONLINEARITIES[nonlinearity]
        self._relu = nonlinearity == "relu"

    @staticmethod
    def from_module(module: torch.nn.RNN, layer: int = 0, *, backward: bool = False) -> RNNRecurrence:
        """One layer and direction of a `torch.nn.RNN`; the tensors are shared, not copied.

        Args:
            backward: the backward direction of a bidirectional layer; give `inputs` the sequence flipped in time.
        """
        weights = layer_weights(module, layer, backward)
        return RNNRecurrence(**weights, nonlinearity=module.nonlinearity)  # pyright: ignore[reportArgumentType]

    def inputs(self, x: Tensor) -> Tensor:
        """The pre-activations that `x` contributes: `(T, *batch, D_in)` to `(T, *batch, D)`."""
        return functional.linear(x, self._weight_ih, self._bias)

    def __call__(self, h: Tensor, u: Tensor) -> Tensor:
        """One step for every row: `h` and the pre-activations `(n, *batch, D)` to `(n, *batch, D)`."""
        return self._compiled.value(h, (u, self._weight), self._plain)

    def linearize(self, h: Tensor, u: Tensor) -> AbstractDerivatives:
        """The value and the closed-form derivatives; diagonal and value in one kernel, on CUDA up to D = 64."""
        if not cells.fused(h, self._weight):
            return self._compiled.linearize(h, (u, self._weight), self._plain)
        value, diagonal = cells.rnn_step(h, u, self._weight, self._relu)
        rest = RNNDerivatives(value, self._slope, self._weight, self._diagonal)
        return FusedDerivatives(value, diagonal.unsqueeze(-1).unsqueeze(-1), lambda: rest)

    def fused_iteration(self, request: IterationRequest) -> IterationResult | None:
        """A whole iteration: in compiled code on a CPU, in one kernel on a CUDA device."""
        u = request.inputs
        if request.s0.device.type == "cpu":
            return self._compiled.fused_iteration(request, (u, self._weight))
        return iterations.rnn(request.method, request, u, self._weight, self._relu)

    def solve_adjoint(self, h: Tensor, u: Tensor, g: Tensor) -> Tensor | None:
        """All `l_t = g_t + J_{t+1}^T l_{t+1}` in compiled code; None where the loop must solve that.

        Args:
            h: the state before each row, `(T, *batch, D)`.
            u: the pre-activations, `(T, *batch, D)`.
            g: `(T, *batch, D)`.
        """
        return self._compiled.cell.adjoint(h, (u, self._weight), g)

    def _plain(self, h: Tensor, tensors: Tensors) -> RNNDerivatives:
        value = self._function(product(h, tensors[1]).add_(tensors[0]))
        return RNNDerivatives(value, self._slope, tensors[1], self._diagonal)


class RNNDerivatives(AbstractDerivatives):
    """The step of a plain recurrent network and its Jacobian, which needs the value alone."""

    def __init__(self, value: Tensor, slope: Slope, weight: Tensor, diagonal: Tensor) -> None:
        self.value = value
        self._slope_of, self._weight, self._diagonal = slope, weight, diagonal

    @kept
    def _slope(self) -> Tensor:
        """g, kept for the next product."""
        return self._slope_of(self.value)

    def jvp(self, v: Tensor) -> Tensor:
        return self._slope * product(v, self._weight)

    def vjp(self, w: Tensor) -> Tensor:
        return (self._slope * w) @ self._weight

    def gradients(self, g: Tensor) -> tuple[Tensor]:
        """For the gradient `g` of the value that of `W h`, which is that of u."""
        return (self._slope * g,)

    def jacobian(self) -> Tensor:
        return self._slope.unsqueeze(-1) * self._weight

    def diagonal(self) -> Tensor:
        return self._slope * self._diagonal

    def block_diagonal(self, size: int) -> Tensor:
        slope = self._slope.unflatten(-1, (-1, size)).unsqueeze(-1)
        return slope * own_blocks(self._weight, size)
