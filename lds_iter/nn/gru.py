"""The recurrence of `torch.nn.GRU`, with its derivatives in closed form.

    r = sigmoid(x_r + W_r h)                   x_r, x_z, x_n: what the input contributes, computed once for all t
    z = sigmoid(x_z + W_z h)                   q = W_n h + b_n
    n = tanh(x_n + r q)                        h' = n + z (h - n)

    J = diag(z) + diag(a_z) W_z + diag(a_n) W_n + diag(a_r) W_r
    a_z = (h - n) z (1 - z)     g = (1 - z) (1 - n^2)     a_n = g r     a_r = g q r (1 - r)

The gates lie in tensors of their own, so that every elementwise operation runs over contiguous memory.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from lds_iter._torch import kept
from lds_iter.derivatives.closed_form import AbstractDerivatives
from lds_iter.kernels.cpu.cells import GRU, Tensors
from lds_iter.kernels.triton.cells import iterations
from lds_iter.kernels.triton.cells import operators as cells
from lds_iter.nn._compiled import Recipe
from lds_iter.nn._fused import FusedDerivatives
from lds_iter.nn._weights import SMALL_WIDTH, check_shapes, layer_weights, own_blocks, product, scaled_sum
from lds_iter.recurrence import IterationRequest, IterationResult

Gates: TypeAlias = tuple[Tensor, Tensor, Tensor]

COMPILED = Recipe(GRU, inputs=(0, 1, 4), direct=(3,))


class GRURecurrence:
    """One layer and direction of a GRU as a recurrence `h' = f(h, u)`, for `solve` and `sequential`.

    Its inputs are the pre-activations of `inputs(x)`, not `x` itself. Uses the equations and parameter layout of
    `torch.nn.GRU` (gates in the order r, z, n).

    Args:
        weight_hh: `(3 D, D)`.
        bias_hh: `(3 D)`, or None.
        weight_ih: `(3 D, D_in)`.
        bias_ih: `(3 D)`, or None.
    """

    def __init__(
        self, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor | None = None, bias_hh: Tensor | None = None
    ) -> None:
        self.width = width = check_shapes(weight_ih, weight_hh, 3)
        self._weight_ih = weight_ih
        self._weight = weight_hh
        self._weights: Gates = tuple(weight_hh.unflatten(0, (3, width)).unbind(0))  # pyright: ignore[reportAttributeAccessIssue]
        bias_ih = weight_hh.new_zeros(3 * width) if bias_ih is None else bias_ih
        bias_hh = weight_hh.new_zeros(3 * width) if bias_hh is None else bias_hh
        # b_hn sits inside the product with r; the other two recurrent biases just add to the input's.
        self._bias_in = bias_ih + functional.pad(bias_hh[: 2 * width], (0, width))
        self._bias_n = bias_hh[2 * width :]
        self._diagonals: Gates = tuple(weight.diagonal().contiguous() for weight in self._weights)  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def from_module(module: torch.nn.GRU, layer: int = 0, *, backward: bool = False) -> GRURecurrence:
        """One layer and direction of a `torch.nn.GRU`; the tensors are shared, not copied.

        Args:
            backward: the backward direction of a bidirectional layer; give `inputs` the sequence flipped in time.
        """
        return GRURecurrence(**layer_weights(module, layer, backward))

    def inputs(self, x: Tensor) -> Gates:
        """The pre-activations that `x` contributes: `(T, *batch, D_in)` to three tensors `(T, *batch, D)`."""
        weights, biases = self._weight_ih.unflatten(0, (3, -1)), self._bias_in.unflatten(0, (3, -1))
        return tuple((x @ w.T).add_(b) for w, b in zip(weights, biases, strict=True))  # pyright: ignore[reportReturnType]

    def __call__(self, h: Tensor, u: Gates) -> Tensor:
        """One step for every row: `h` `(n, *batch, D)` and the pre-activations to `(n, *batch, D)`."""
        return COMPILED.value(h, self._tensors(u), self._plain)

    def linearize(self, h: Tensor, u: Gates) -> AbstractDerivatives:
        """The value and the closed-form derivatives; diagonal and value in one kernel, on CUDA up to D = 64."""
        if not cells.fused(h, self._weight):
            return COMPILED.linearize(h, self._tensors(u), self._plain)
        value, diagonal = cells.gru_step(h, *u, self._weight, self._bias_n)
        return FusedDerivatives(value, diagonal.unsqueeze(-1).unsqueeze(-1), lambda: self._plain(h, self._tensors(u)))

    def fused_iteration(self, request: IterationRequest) -> IterationResult | None:
        """A whole iteration: in compiled code on a CPU, in one kernel on a CUDA device."""
        u = request.inputs
        if request.s0.device.type == "cpu":
            return COMPILED.fused_iteration(request, self._tensors(u))
        return iterations.gru(request.method, request, u, self._weight, self._bias_n)

    def solve_adjoint(self, h: Tensor, u: Gates, g: Tensor) -> Tensor | None:
        """All `l_t = g_t + J_{t+1}^T l_{t+1}` in compiled code; None where the loop must solve that.

        Args:
            h: the state before each row, `(T, *batch, D)`.
            u: the pre-activations, `(T, *batch, D)` each.
            g: `(T, *batch, D)`.
        """
        return GRU.adjoint(h, self._tensors(u), g)

    def _tensors(self, u: Gates) -> Tensors:
        return *u, *self._weights, self._bias_n

    def _plain(self, h: Tensor, tensors: Tensors) -> GRUDerivatives:
        return GRUDerivatives(h, tensors[:3], tensors[3:6], self._diagonals, tensors[6])  # pyright: ignore[reportArgumentType]


class GRUDerivatives(AbstractDerivatives):
    """The step of a GRU and its Jacobian; the gates are computed once for both."""

    def __init__(self, h: Tensor, u: Gates, weights: Gates, diagonals: Gates, bias_n: Tensor) -> None:
        self._h, self._u, self._bias_n = h, u, bias_n
        self._weights, self._diagonals = weights, diagonals
        self.value = torch.addcmul(self._n, self._z, self._gap)

    @kept
    def _gates(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # A product and an addition in place: on a CPU less than half the time of `addmm`.
        r = product(self._h, self._weights[0]).add_(self._u[0]).sigmoid_()
        z = product(self._h, self._weights[1]).add_(self._u[1]).sigmoid_()
        q = product(self._h, self._weights[2]).add_(self._bias_n)
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
        w_r, w_z, w_n = (_stretched(diagonal, self.value.numel()) for diagonal in self._diagonals)
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
