"""The recurrence of `torch.nn.RNN`, with its derivatives in closed form.

h' = a(x + W h)        x: what the input contributes, computed once for all t; a = tanh or relu
J = diag(g) W          g = 1 - h'^2 for tanh, 1 where h' > 0 for relu
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from lds_iter._torch import kept
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.cpu.cells import CompiledCell
from lds_iter.kernels.triton.cells import iterations, operators
from lds_iter.nn._weights import apply_weight, layer_weights, own_blocks
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.cell_spec import CellDerivatives, CellSpec, CellWeights, Gates

Slope = Callable[[Tensor], Tensor]


class RNNRecurrence(CellRecurrence):
    """One layer and direction of a plain recurrent network as a recurrence `h' = f(h, u)`.

    For `solve` and `sequential`. Its inputs are the pre-activations of `inputs(x)`, not `x` itself. Uses the parameter
    layout of `torch.nn.RNN`.

    Args:
        weight_ih: `(D, D_in)`.
        weight_hh: `(D, D)`.
        bias_ih: `(D)`, or None.
        bias_hh: `(D)`, or None.
        nonlinearity: "tanh" or "relu", as in `torch.nn.RNN`.

    Raises:
        ValueError: when the shapes of the weights do not fit, or for another nonlinearity.
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
        if nonlinearity not in RNN_SPECS:
            raise ValueError(f'`nonlinearity` must be "tanh" or "relu", got {nonlinearity!r}.')
        spec = RNN_SPECS[nonlinearity]
        super().__init__(spec, spec.weights(weight_ih, weight_hh, bias_ih, bias_hh))

    @staticmethod
    def from_module(module: torch.nn.RNN, layer: int = 0, *, backward: bool = False) -> RNNRecurrence:
        """One layer and direction of a `torch.nn.RNN`; the tensors are shared, not copied.

        Args:
            module: the layer of torch.
            layer: which of its layers.
            backward: the backward direction of a bidirectional layer; give `inputs` the sequence flipped in time.

        Raises:
            ValueError: when the module has no such layer.
        """
        weights = layer_weights(module, layer, backward)
        return RNNRecurrence(**weights, nonlinearity=module.nonlinearity)  # pyright: ignore[reportArgumentType]


class RNNDerivatives(CellDerivatives):
    """The step of a plain recurrent network and its Jacobian, which needs the value alone."""

    def __init__(self, value: Tensor, slope: Slope, weights: CellWeights) -> None:
        self.value = value
        self._slope_of, self._weight, self._of = slope, weights.hh, weights

    @kept
    def _slope(self) -> Tensor:
        """g, kept for the next product."""
        return self._slope_of(self.value)

    def jvp(self, v: Tensor) -> Tensor:
        return self._slope * apply_weight(v, self._weight)

    def vjp(self, w: Tensor) -> Tensor:
        return (self._slope * w) @ self._weight

    def gradients(self, g: Tensor) -> tuple[Tensor]:
        """For the gradient `g` of the value that of `W h`, which is that of u."""
        return (self._slope * g,)

    def jacobian(self) -> Tensor:
        return self._slope.unsqueeze(-1) * self._weight

    def diagonal(self) -> Tensor:
        return self._slope * self._of.diagonals[0]

    def block_diagonal(self, size: int) -> Tensor:
        slope = self._slope.unflatten(-1, (-1, size)).unsqueeze(-1)
        return slope * own_blocks(self._weight, size)


def _spec(compiled: CompiledCell, function: Callable[[Tensor], Tensor], slope: Slope, relu: bool) -> CellSpec:
    """Of the function, in place, and its slope as a function of its value."""

    def derivatives(h: Tensor, u: Gates, weights: CellWeights) -> RNNDerivatives:
        return RNNDerivatives(function(apply_weight(h, weights.hh).add_(u[0])), slope, weights)

    def device_step(h: Tensor, u: Gates, weights: CellWeights) -> tuple[Tensor, Tensor]:
        value, diagonal = operators.rnn_step(h, u[0], weights.hh, relu)
        return value, diagonal.unsqueeze(-1).unsqueeze(-1)

    return CellSpec(
        gates=1,
        inner_bias=False,
        compiled=compiled,
        to_state=(None,),
        derivatives=derivatives,
        device_step=device_step,
        device_iteration=lambda form, request, u, weights: iterations.rnn(form, request, u[0], weights.hh, relu),
        pack=lambda start, _: start[0],
        output=lambda states, _: states,
        final=lambda last, _: (last,),
    )


RNN_SPECS = {
    "tanh": _spec(cells.COMPILED_RNN_TANH, torch.tanh_, lambda value: 1 - value * value, relu=False),
    "relu": _spec(cells.COMPILED_RNN_RELU, torch.relu_, lambda value: (value > 0).to(value.dtype), relu=True),
}
