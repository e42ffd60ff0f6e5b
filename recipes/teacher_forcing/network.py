"""A piecewise-linear recurrent network under generalized teacher forcing, with its derivatives in closed form.

The shallow PLRNN of Hess, Monfared, Brenner and Durstewitz, "Generalized teacher forcing for learning chaotic dynamics"
(ICML 2023), which observes its whole state:

    z' = a z + W max(0, V z + c) + h

Forcing replaces the state before each step by a mixture with the data x, `(1 - alpha) z + alpha x`, so that the
Jacobian of a step is `1 - alpha` times that of the network. At alpha = 1 steps do not depend on each other, at 0 the
network runs free. In between the forced network may contract though the network itself is chaotic. Hess, Goetz and
Durstewitz (GTF-DEER, arXiv 2605.12683) train so in parallel over time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import lds_iter as li


class ShallowPLRNN(nn.Module):
    """`z' = a z + W max(0, V z + c) + h`, in float64; its weights are drawn on the CPU.

    Args:
        width: of the state, D.
        hidden: units of the layer between.
    """

    def __init__(self, width: int = 3, hidden: int = 50) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.full((width,), 0.9, dtype=torch.float64, device="cpu"))
        self.V = nn.Parameter(torch.randn(hidden, width, dtype=torch.float64, device="cpu") / width**0.5)
        self.c = nn.Parameter(2 * torch.rand(hidden, dtype=torch.float64, device="cpu") - 1)
        self.W = nn.Parameter(0.1 * torch.randn(width, hidden, dtype=torch.float64, device="cpu") / hidden**0.5)
        self.h = nn.Parameter(torch.zeros(width, dtype=torch.float64, device="cpu"))

    def forward(self, z: Tensor) -> Tensor:
        """One step of states `(..., D)`."""
        return self.a * z + torch.relu(z @ self.V.T + self.c) @ self.W.T + self.h


@dataclass(frozen=True)
class Forced:
    """The network under forcing, as a recurrence `f(z, x)`; `x` is the data of the time of `z`.

    Attributes:
        network: what is forced.
        alpha: the strength, from 0 to 1.
    """

    network: ShallowPLRNN
    alpha: float

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        return self.network(torch.lerp(z, x, self.alpha))

    def linearize(self, z: Tensor, x: Tensor) -> ForcedDerivatives:
        return ForcedDerivatives(self, z, x)


class ForcedDerivatives(li.AbstractDerivatives):
    """`J = (1 - alpha) (diag(a) + W diag(active) V)`."""

    def __init__(self, forced: Forced, z: Tensor, x: Tensor) -> None:
        net, mixed = forced.network, torch.lerp(z, x, forced.alpha)
        drive = mixed @ net.V.T + net.c
        self._net, self._keep, self._active = net, 1 - forced.alpha, (drive > 0).to(z.dtype)
        self.value = net.a * mixed + torch.relu(drive) @ net.W.T + net.h

    def jvp(self, v: Tensor) -> Tensor:
        return self._keep * (self._net.a * v + (self._active * (v @ self._net.V.T)) @ self._net.W.T)

    def vjp(self, w: Tensor) -> Tensor:
        return self._keep * (self._net.a * w + (self._active * (w @ self._net.W)) @ self._net.V)

    def jacobian(self) -> Tensor:
        units = self._net.W.unsqueeze(1) * self._net.V.T  # (D, D, hidden): what each unit adds when it is active
        through = (self._active @ units.flatten(0, 1).T).unflatten(-1, (len(units), -1))
        return self._keep * (torch.diag(self._net.a) + through)

    def diagonal(self) -> Tensor:
        return self._keep * (self._net.a + self._active @ (self._net.W * self._net.V.T).T)

    def block_diagonal(self, size: int) -> Tensor:
        blocks = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
