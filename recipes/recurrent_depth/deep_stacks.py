"""Very deep, narrow networks, forward and backward by Newton's method over depth.

    s_t = skip * s_{t-1} + gain * tanh(W_t s_{t-1} + b_t),  t = 1..T        skip 0: an MLP;  skip 1: a residual network

After Danieli et al., "DeepPCR: parallelizing sequential operations in neural networks", NeurIPS 2023.

The Jacobian is known, `skip I + gain diag(1 - tanh^2) W_t`, so no autodiff runs. The backward pass is the transposed
recurrence, linear, and Newton solves it in one iteration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import lds_iter as li


@dataclass(frozen=True)
class Layer:
    """One layer of many, for any rows: a recurrence with derivatives of its own.

    Attributes:
        skip: how much of the state goes past the layer.
        gain: how much the layer adds.
    """

    skip: float
    gain: float

    def __call__(self, s: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        """States `(n, *batch, D)` and `(weight, bias)`, `(n, D, D)` and `(n, D)`, to the states after the layer."""
        return self.skip * s + self.gain * self._inner(s, parameters)

    def _inner(self, s: Tensor, parameters: tuple[Tensor, Tensor]) -> Tensor:
        weight, bias = parameters
        rows = s.reshape(s.shape[0], -1, s.shape[-1])
        return torch.baddbmm(bias.unsqueeze(1), rows, weight.mT).tanh().view(s.shape)

    def linearize(self, s: Tensor, parameters: tuple[Tensor, Tensor]) -> li.AbstractDerivatives:
        """The layer and its derivatives in closed form."""
        return LayerDerivatives(self, s, self._inner(s, parameters), parameters[0])


class LayerDerivatives(li.AbstractDerivatives):
    """`J = skip I + diag(slope) W` with `slope = gain (1 - tanh^2)`, `(n, *batch, D)`."""

    def __init__(self, layer: Layer, s: Tensor, inner: Tensor, weight: Tensor) -> None:
        self.value = layer.skip * s + layer.gain * inner
        self._skip, self._slope = layer.skip, layer.gain * (1 - inner.square())
        self._weight = weight.view(weight.shape[0], *[1] * (s.ndim - 2), *weight.shape[1:])

    def jvp(self, v: Tensor) -> Tensor:
        return self._skip * v + self._slope * (self._weight @ v.unsqueeze(-1)).squeeze(-1)

    def vjp(self, w: Tensor) -> Tensor:
        return self._skip * w + (self._weight.mT @ (self._slope * w).unsqueeze(-1)).squeeze(-1)

    def jacobian(self) -> Tensor:
        jacobian = self._slope.unsqueeze(-1) * self._weight
        jacobian.diagonal(dim1=-2, dim2=-1).add_(self._skip)
        return jacobian

    def diagonal(self) -> Tensor:
        return self._skip + self._slope * self._weight.diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size: int) -> Tensor:
        jacobian = self.jacobian()
        blocks = [jacobian[..., i : i + size, i : i + size] for i in range(0, jacobian.shape[-1], size)]
        return torch.stack(blocks, dim=-3)


class DeepStack(nn.Module):
    """A stack of `depth` layers of one width; its weights are drawn on the CPU.

    Args:
        depth: T, the number of layers.
        width: D.
        layer: which kind; `mlp()` or `residual(depth)`.

    Attributes:
        weight: `(T, D, D)`; N(0, 1/D) at first, so that signals neither die nor explode.
        bias: `(T, D)`.
    """

    def __init__(self, depth: int, width: int, layer: Layer) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(depth, width, width, device="cpu") * width**-0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(depth, width, device="cpu"))

    def solve(self, x: Tensor, method: li.LDSApproximation | None = None, **options: object) -> li.Solution:
        """All layers at once on `x`, `(B, D)`; options as `li.solve` takes them."""
        return li.solve(self.layer, x, (self.weight, self.bias), method, **options)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """The last state, layer by layer: the reference."""
        for weight, bias in zip(self.weight, self.bias, strict=True):
            x = self.layer.skip * x + self.layer.gain * torch.addmm(bias, x, weight.T).tanh()
        return x


def mlp() -> Layer:
    """`s_t = tanh(W_t s_{t-1} + b_t)`."""
    return Layer(skip=0.0, gain=1.0)


def residual(depth: int) -> Layer:
    """`s_t = s_{t-1} + tanh(W_t s_{t-1} + b_t) / sqrt(T)`: updates that add up to the order of the input."""
    return Layer(skip=1.0, gain=depth**-0.5)


def adjoint(stack: DeepStack, states: Tensor, x: Tensor, g: Tensor) -> li.Solution:
    """The backward pass as a solve of its own: `l -> J^T l`, from the last layer to the first.

    `li.Implicit`, which gradients use by themselves, runs the same recurrence; here its iterations can be counted.

    Args:
        stack: the network.
        states: its states on `x`, `(T, B, D)`.
        x: the input, `(B, D)`.
        g: the gradient that arrives at the last state, `(B, D)`.

    Returns:
        The solution; its last state is the gradient with respect to `x`.
    """
    before = torch.cat([x.unsqueeze(0), states[:-1]])
    derivatives = stack.layer.linearize(before, (stack.weight, stack.bias))
    jacobians = derivatives.jacobian().flip(0)
    return li.solve(
        lambda s, j: (j.mT @ s.unsqueeze(-1)).squeeze(-1), g, jacobians, li.Newton(), guess=li.step_from_zero
    )
