"""The recurrence of `torch.nn.GRU`, with its derivatives in closed form.

    r = sigmoid(x_r + W_r h)                   x_r, x_z, x_n: what the input contributes, computed once for all t
    z = sigmoid(x_z + W_z h)                   q = W_n h + b_n
    n = tanh(x_n + r q)                        h' = n + z (h - n)

    J = diag(z) + diag(a_z) W_z + diag(a_n) W_n + diag(a_r) W_r
    a_z = (h - n) z (1 - z)     g = (1 - z) (1 - n^2)     a_n = g r     a_r = g q r (1 - r)

The gates lie in tensors of their own, so that every elementwise operation runs over contiguous memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lds_iter._torch import kept
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.forms import Form
from lds_iter.kernels.triton.cells import iterations, operators
from lds_iter.nn._weights import SMALL_WIDTH, apply_weight, layer_weights, own_blocks, scaled_sum
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.cell_spec import CellDerivatives, CellSpec, CellWeights, Gates
from lds_iter.recurrence import IterationRequest, IterationResult


class GRURecurrence(CellRecurrence):
    """One layer and direction of a GRU as a recurrence `h' = f(h, u)`, for `solve` and `sequential`.

    Its inputs are the pre-activations of `inputs(x)`, not `x` itself. Uses the equations and parameter layout of
    `torch.nn.GRU` (gates in the order r, z, n).

    Args:
        weight_ih: `(3 D, D_in)`.
        weight_hh: `(3 D, D)`.
        bias_ih: `(3 D)`, or None.
        bias_hh: `(3 D)`, or None.

    Raises:
        ValueError: when the shapes of the weights do not fit.
    """

    def __init__(
        self, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None = None, bias_hh: Tensor | None = None
    ) -> None:
        super().__init__(GRU_SPEC, GRU_SPEC.weights(weight_ih, weight_hh, bias_ih, bias_hh))

    @staticmethod
    def from_module(module: torch.nn.GRU, layer: int = 0, *, backward: bool = False) -> GRURecurrence:
        """One layer and direction of a `torch.nn.GRU`; the tensors are shared, not copied.

        Args:
            module: the layer of torch.
            layer: which of its layers.
            backward: the backward direction of a bidirectional layer; give `inputs` the sequence flipped in time.

        Raises:
            ValueError: when the module has no such layer.
        """
        return GRURecurrence(**layer_weights(module, layer, backward))


class GRUDerivatives(CellDerivatives):
    """The step of a GRU and its Jacobian; the gates are computed once for both."""

    def __init__(self, h: Tensor, u: Gates, weights: CellWeights) -> None:
        self._h, self._u, self._of = h, u, weights
        self._weights = weights.gates
        self.value = torch.addcmul(self._n, self._z, self._gap)

    @kept
    def _gates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # A product and an addition in place: on a CPU less than half the time of `addmm`.
        r = apply_weight(self._h, self._weights[0]).add_(self._u[0]).sigmoid_()
        z = apply_weight(self._h, self._weights[1]).add_(self._u[1]).sigmoid_()
        q = apply_weight(self._h, self._weights[2])
        q = q if self._of.inner_bias is None else q.add_(self._of.inner_bias)
        return r, z, q, torch.addcmul(self._u[2], r, q).tanh_()

    _r = property(lambda self: self._gates[0])
    _z = property(lambda self: self._gates[1])
    _q = property(lambda self: self._gates[2])
    _n = property(lambda self: self._gates[3])

    @kept
    def _gap(self) -> Tensor:
        return self._h - self._n

    @kept
    def _slopes(self) -> Gates:
        """`a_r`, `a_z`, `a_n`; kept for the next product, but not made by `diagonal`, which spares the memory."""
        return self.slopes()[:3]

    def slopes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`a_r`, `a_z`, `a_n` and `g`, each `(n, *batch, D)`: how a change of a gate's pre-activation arrives in h'."""
        a_z = torch.ops.aten.sigmoid_backward(self._gap, self._z)
        g = torch.ops.aten.tanh_backward(1 - self._z, self._n)
        a_r = torch.ops.aten.sigmoid_backward(self._q, self._r) * g
        return a_r, a_z, g * self._r, g

    def jvp(self, v: Tensor) -> Tensor:
        out = self._z * v
        for slope, weight in zip(self._slopes, self._weights, strict=True):
            out.addcmul_(slope, functional.linear(v, weight))
        return out

    def vjp(self, w: Tensor) -> Tensor:
        out = self._z * w
        for slope, weight in zip(self._slopes, self._weights, strict=True):
            out += (slope * w) @ weight
        return out

    def jacobian(self) -> Tensor:
        width = self.value.shape[-1]
        if width > SMALL_WIDTH:
            return self.block_diagonal(width).squeeze(-3)
        identity = torch.eye(width, dtype=self.value.dtype, device=self.value.device)
        return scaled_sum((self._z, *self._slopes), (identity, *self._weights))

    def gradients(self, g: Tensor) -> tuple[Tensor, ...]:
        """For the gradient `g` of the value those of W_r h, W_z h and q, the direct part of that of `h`, and of u_n."""
        d_n = g * (1 - self._z) * (1 - self._n * self._n)
        d_r = d_n * self._q * self._r * (1 - self._r)
        return d_r, g * self._gap * self._z * (1 - self._z), d_n * self._r, g * self._z, d_n

    def diagonal(self) -> Tensor:
        w_r, w_z, w_n = (_stretched(diagonal, self.value.numel()) for diagonal in self._of.diagonals)
        r, z, q, n, gap = (x.view(-1, w_r.shape[0]) for x in (self._r, self._z, self._q, self._n, self._gap))
        # In place only where autograd keeps nothing that it would overwrite: `Unroll` differentiates this.
        inner = (torch.ops.aten.sigmoid_backward(q, r) * w_r).addcmul_(r, w_n)
        through_n = torch.ops.aten.tanh_backward(inner, n)
        out = through_n.lerp(through_n.new_ones(()).expand_as(through_n), z)  # z + (1 - z) through_n
        return out.addcmul_(torch.ops.aten.sigmoid_backward(gap, z), w_z).view(self.value.shape)

    def block_diagonal(self, size: int) -> Tensor:
        out = torch.diag_embed(self._z.unflatten(-1, (-1, size)))
        for slope, weight in zip(self._slopes, self._weights, strict=True):
            out.addcmul_(slope.unflatten(-1, (-1, size)).unsqueeze(-1), own_blocks(weight, size))
        return out


def _stretched(row: Tensor, numbers: int) -> Tensor:
    """`row` repeated, up to 128 numbers, as often as divides a tensor of so many numbers.

    Broadcasting a short row is slow: at D = 8 an operation takes a third of the time with a long one.
    """
    copies = max(1, 128 // row.shape[0])
    while numbers % (copies * row.shape[0]):
        copies //= 2
    return row.repeat(copies)


def _device_step(h: Tensor, u: Gates, weights: CellWeights) -> tuple[Tensor, Tensor]:
    value, diagonal = operators.gru_step(h, *u, weights.hh, weights.inner_bias)
    return value, diagonal.unsqueeze(-1).unsqueeze(-1)


def _device_iteration(
    form: Form | None, request: IterationRequest, u: Gates, weights: CellWeights
) -> IterationResult | None:
    assert weights.inner_bias is not None
    return iterations.gru(form, request, u, weights.hh, weights.inner_bias)


GRU_SPEC = CellSpec(
    gates=3,
    inner_bias=True,
    compiled=cells.COMPILED_GRU,
    to_state=(3,),
    derivatives=GRUDerivatives,
    device_step=_device_step,
    device_iteration=_device_iteration,
    pack=lambda start, _: start[0],
    output=lambda states, _: states,
    final=lambda last, _: (last,),
)
