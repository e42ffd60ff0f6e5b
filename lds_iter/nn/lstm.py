"""The recurrence of `torch.nn.LSTM`, with its derivatives in closed form.

    i, f, o = sigmoid(x_k + W_k h)             x_k: what the input contributes, computed once for all t
    g       = tanh(x_g + W_g h)
    c'      = f c + i g
    h'      = o tanh(c')

    d c'/dc = f                                d c'/dh = P = sum_k diag(a_k) W_k, k = i, f, g
    d h'/dc = e f                              d h'/dh = e P + diag(a_o) W_o
    a_i = g i (1 - i)   a_f = c f (1 - f)   a_g = i (1 - g^2)   a_o = tanh(c') o (1 - o)   e = o (1 - tanh(c')^2)

The state is one tensor of width 2 D in which `h_j` and `c_j` lie side by side, `(h_1, c_1, h_2, c_2, ...)`: a cell's
two numbers couple strongly, two cells only through the weights, so the 2x2 blocks along the diagonal
(`BlockNewton(2)`) hold what matters. The price is two strided copies a step, little next to the gates.

With a projection (`proj_size`) `torch.nn` feeds back `W_hr h` of width P < D. The state stays the unprojected `h`,
still paired with `c`, and the product with `W_hr` is part of the step: `W_k h` reads `W_k (W_hr h)`. An initial state,
which torch gives in projected form and which need not have an unprojected one, enters as a contribution to the first
row of the pre-activations instead, with `h_0 = 0`.

Results are overwritten only where autograd has not kept them: `Unroll` differentiates the derivatives too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lds_iter._torch import kept
from lds_iter.kernels.cpu import cells
from lds_iter.kernels.triton.cells import iterations, operators
from lds_iter.nn._weights import apply_weight, layer_weights, own_blocks
from lds_iter.nn.cell import CellRecurrence
from lds_iter.nn.cell_spec import CellDerivatives, CellSpec, CellWeights, Gates


class LSTMRecurrence(CellRecurrence):
    """One layer and direction of an LSTM as a recurrence `s' = f(s, u)`, for `solve` and `sequential`.

    Its state `s` is h and c in pairs, `(..., 2 D)`: see `pack` and `unpack`. Its inputs are the pre-activations of
    `inputs(x)`, not `x` itself. Uses the equations and parameter layout of `torch.nn.LSTM` (gates in the order i, f, g,
    o).

    Args:
        weight_ih: `(4 D, D_in)`.
        weight_hh: `(4 D, D)`, or `(4 D, P)` with a projection.
        bias_ih: `(4 D)`, or None.
        bias_hh: `(4 D)`, or None.
        weight_hr: the projection, `(P, D)`, or None.

    Raises:
        ValueError: when the shapes of the weights do not fit.
    """

    def __init__(
        self,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor | None = None,
        bias_hh: Tensor | None = None,
        *,
        weight_hr: Tensor | None = None,
    ) -> None:
        super().__init__(LSTM_SPEC, LSTM_SPEC.weights(weight_ih, weight_hh, bias_ih, bias_hh, weight_hr))

    @staticmethod
    def from_module(module: torch.nn.LSTM, layer: int = 0, *, backward: bool = False) -> LSTMRecurrence:
        """One layer and direction of a `torch.nn.LSTM`; the tensors are shared, not copied.

        Args:
            module: the layer of torch.
            layer: which of its layers.
            backward: the backward direction of a bidirectional layer; give `inputs` the sequence flipped in time.

        Raises:
            ValueError: when the module has no such layer.
        """
        return LSTMRecurrence(**layer_weights(module, layer, backward))

    def inputs(self, x: Tensor, h0: Tensor | None = None) -> Gates:
        """The pre-activations that `x` contributes: `(T, *batch, D_in)` to four tensors `(T, *batch, D)`.

        Args:
            x: the input sequence.
            h0: with a projection, the projected h before the first step, `(*batch, P)`; zeros when None.
        """
        gates = super().inputs(x)
        if h0 is None:
            return gates
        first = [functional.linear(h0, weight).unsqueeze(0) for weight in self.weights.gates]
        return tuple(torch.cat([gate[:1] + own, gate[1:]]) for gate, own in zip(gates, first, strict=True))

    @staticmethod
    def pack(h: Tensor, c: Tensor) -> Tensor:
        """H and c, `(..., D)` each, as one state `(..., 2 D)`."""
        return pack(h, c)

    def unpack(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """A state `(..., 2 D)` as h, projected where there is a projection, and c."""
        return unpack(s, self.weights)


class LSTMDerivatives(CellDerivatives):
    """The step of an LSTM and its Jacobian; the gates are computed once for both."""

    def __init__(self, s: Tensor, u: Gates, weights: CellWeights) -> None:
        self._weights = weights
        h, self._c = unpack(s, weights)
        w_i, w_f, w_g, w_o = weights.gates
        # A product and an addition in place: on a CPU less than half the time of `addmm`.
        self._i = apply_weight(h, w_i).add_(u[0]).sigmoid_()
        self._forget = apply_weight(h, w_f).add_(u[1]).sigmoid_()
        self._g = apply_weight(h, w_g).add_(u[2]).tanh_()
        self._o = apply_weight(h, w_o).add_(u[3]).sigmoid_()
        cell = torch.addcmul(self._forget * self._c, self._i, self._g)
        self._squashed = torch.tanh(cell)
        self.value = pack(self._o * self._squashed, cell)

    @kept
    def _slopes(self) -> Gates:
        """`a_i`, `a_f`, `a_g`, `a_o`; kept for the next product."""
        a_i = torch.ops.aten.sigmoid_backward(self._g, self._i)
        a_f = torch.ops.aten.sigmoid_backward(self._c, self._forget)
        a_g = torch.ops.aten.tanh_backward(self._i, self._g)
        a_o = torch.ops.aten.sigmoid_backward(self._squashed, self._o)
        return a_i, a_f, a_g, a_o

    @kept
    def _through_cell(self) -> Tensor:
        """`e`, how much of a change of c' arrives in h'."""
        return torch.ops.aten.tanh_backward(self._o, self._squashed)

    def jvp(self, v: Tensor) -> Tensor:
        v_h, v_c = unpack(v, self._weights)
        *inner, a_o = self._slopes
        d_c = self._forget * v_c
        for slope, weight in zip(inner, self._weights.gates, strict=False):
            d_c.addcmul_(slope, apply_weight(v_h, weight))
        d_h = a_o * apply_weight(v_h, self._weights.gates[3])
        return pack(d_h.addcmul_(self._through_cell, d_c), d_c)

    def vjp(self, w: Tensor) -> Tensor:
        w_h, w_c = w.unflatten(-1, (-1, 2)).unbind(-1)
        w_c = torch.addcmul(w_c, self._through_cell, w_h)
        *inner, a_o = self._slopes
        out = (a_o * w_h) @ self._weights.gates[3]
        for slope, weight in zip(inner, self._weights.gates, strict=False):
            out = out + (slope * w_c) @ weight
        if self._weights.hr is not None:
            out = out @ self._weights.hr
        return pack(out, w_c * self._forget)

    def gradients(self, g: Tensor) -> tuple[Tensor, ...]:
        """For the gradient `g` of the value those of the four `W_k h`, which are those of u, and of c."""
        g_h, g_c = g[..., ::2], g[..., 1::2]
        g_c = torch.addcmul(g_c, self._through_cell, g_h)
        a_i, a_f, a_g, a_o = self._slopes
        return a_i * g_c, a_f * g_c, a_g * g_c, a_o * g_h, self._forget * g_c

    def jacobian(self) -> Tensor:
        return self._blocks(self._weights.width).squeeze(-3)

    def diagonal(self) -> Tensor:
        w_i, w_f, w_g, w_o = self._weights.diagonals
        a_i, a_f, a_g, a_o = self._slopes
        inner = (a_i * w_i).addcmul_(a_f, w_f).addcmul_(a_g, w_g)
        return pack((a_o * w_o).addcmul_(self._through_cell, inner), self._forget)

    def block_diagonal(self, size: int) -> Tensor:
        if size == 1:
            return self.diagonal().unsqueeze(-1).unsqueeze(-1)
        if size % 2 == 0:
            return self._blocks(size // 2)
        jacobian, count = self.jacobian(), self.value.shape[-1] // size  # cuts through pairs: no need to be clever
        blocks = jacobian.unflatten(-1, (count, size)).unflatten(-3, (count, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)

    def _blocks(self, cells: int) -> Tensor:
        """The blocks that belong to groups of `cells` cells, `(n, *batch, D // cells, 2 cells, 2 cells)`."""
        *inner, a_o = (slope.unflatten(-1, (-1, cells)).unsqueeze(-1) for slope in self._slopes)
        *w_inner, w_o = (own_blocks(weight, cells) for weight in self._weights.effective)
        from_h = inner[0] * w_inner[0]
        for slope, weight in zip(inner[1:], w_inner[1:], strict=True):
            from_h.addcmul_(slope, weight)
        through = self._through_cell.unflatten(-1, (-1, cells))
        forget = self._forget.unflatten(-1, (-1, cells))
        out = from_h.new_empty(*from_h.shape[:-2], cells, 2, cells, 2)
        out[..., 0, :, 0] = (a_o * w_o).addcmul_(through.unsqueeze(-1), from_h)
        out[..., 1, :, 0] = from_h
        out[..., 0, :, 1] = torch.diag_embed(through * forget)
        out[..., 1, :, 1] = torch.diag_embed(forget)
        return out.flatten(-2).flatten(-3, -2)


def pack(h: Tensor, c: Tensor) -> Tensor:
    """H and c, `(..., D)` each, as one state `(..., 2 D)`."""
    return torch.stack([h, c], -1).flatten(-2)


def unpack(s: Tensor, weights: CellWeights) -> tuple[Tensor, Tensor]:
    """A state `(..., 2 D)` as h, projected where there is a projection, and c."""
    return _output(s, weights), s[..., 1::2].contiguous()


def _output(s: Tensor, weights: CellWeights) -> Tensor:
    h = s[..., ::2]
    return h.contiguous() if weights.hr is None else apply_weight(h, weights.hr)


def _paired_start(start: tuple[Tensor, ...], weights: CellWeights) -> Tensor:
    """A projected h enters through the inputs of the first row, see `LSTMRecurrence.inputs`."""
    h, c = start
    return pack(h if weights.hr is None else torch.zeros_like(c), c)


LSTM_SPEC = CellSpec(
    gates=4,
    inner_bias=False,
    compiled=cells.COMPILED_LSTM,
    to_state=(None, 4),
    derivatives=LSTMDerivatives,
    device_step=lambda s, u, weights: operators.lstm_step(s, *u, weights.hh),
    device_iteration=lambda form, request, u, weights: iterations.lstm(form, request, u, weights.hh),
    pack=_paired_start,
    output=_output,
    final=unpack,
)
