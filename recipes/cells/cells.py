"""Six cells, each a step `f(s, u)` that says which structure its Jacobian has.

All are modules for `li.nn.Recurrent`. `inputs(x)` is what a step needs of the input, for all time steps in one product;
`forward(s, u)` is the step; `linearize(s, u)` declares the structure. The numbers of a unit lie side by side in the
state, so that units that do not see each other's state have blocks along the diagonal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

import lds_iter as li


class UnitCell(torch.nn.Module, ABC):
    """A cell of `units` that see the input and their own state, not each other's: blocks of `size` numbers.

    Args:
        features: of the input.
        units: of the cell; the state has `units * size` numbers.
    """

    size = 1
    gates: int
    recurrent: int
    """Weights of a unit for its own state."""

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units * self.size
        self.of_input = torch.nn.Linear(features, self.gates * units)
        self.own = torch.nn.Parameter(0.5 * torch.randn(self.recurrent, units, device=self.of_input.weight.device))

    def inputs(self, x: Tensor) -> Tensor:
        """What the input adds to each gate, `(T, B, gates * units)`."""
        return self.of_input(x)

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        """One step for every row, `(n, B, units * size)`."""
        parts = s.unflatten(-1, (-1, self.size)).unbind(-1)
        return torch.stack(self.step(parts, u.chunk(self.gates, -1)), -1).flatten(-2)

    def linearize(self, s: Tensor, u: Tensor) -> li.StructuredDerivatives:
        """Value and Jacobian: `size` products give all of its blocks, whatever the number of units."""
        return li.blockwise(self, s, u, self.size)

    @abstractmethod
    def step(self, parts: tuple[Tensor, ...], gates: tuple[Tensor, ...]) -> list[Tensor]:
        """The new parts of the state of each unit, from the old ones and from what the input adds to each gate."""


class Leaky(UnitCell):
    """Channelwise: `h' = a h + (1 - a) tanh(w h + u)`, the simplest."""

    gates, recurrent = 1, 2

    def step(self, parts: tuple[Tensor, ...], gates: tuple[Tensor, ...]) -> list[Tensor]:
        (h,), (u,) = parts, gates
        keep = torch.sigmoid(self.own[0] + 2)
        return [keep * h + (1 - keep) * torch.tanh(self.own[1] * h + u)]


class ParaGRU(UnitCell):
    """The GRU with diagonal recurrent weights (Danieli et al., "ParaRNN", ICLR 2026)."""

    gates, recurrent = 3, 3

    def step(self, parts: tuple[Tensor, ...], gates: tuple[Tensor, ...]) -> list[Tensor]:
        (h,), (u_z, u_r, u_c) = parts, gates
        a_z, a_r, a_c = self.own
        z, r = torch.sigmoid(a_z * h + u_z - 2), torch.sigmoid(a_r * h + u_r)
        return [h + z * (torch.tanh(a_c * (r * h) + u_c) - h)]


class ParaLSTM(UnitCell):
    """The LSTM of the same paper: diagonal weights, peepholes, one gate for forgetting and writing. Pairs `(c, h)`."""

    size, gates, recurrent = 2, 3, 5

    def step(self, parts: tuple[Tensor, ...], gates: tuple[Tensor, ...]) -> list[Tensor]:
        (c, h), (u_f, u_o, u_z) = parts, gates
        a_f, a_o, a_z, p_f, p_o = self.own
        f = torch.sigmoid(a_f * h + p_f * c + u_f + 2)
        c = f * c + (1 - f) * torch.tanh(a_z * h + u_z)
        return [c, torch.sigmoid(a_o * h + p_o * c + u_o) * torch.tanh(c)]


class SLSTM(UnitCell):
    """The sLSTM (Beck et al., "xLSTM", NeurIPS 2024) with a head for each unit: states `(q, l, h)`.

    The paper keeps a cell c, a normalizer n and a running maximum m, and reads `h = o c / n`. This is the same in
    coordinates in which a step is smooth: `q = c / n` and `l = m + log n`. The maximum is gone, nothing overflows, and
    Newton takes 6 iterations in place of 20 to 42. A state of zeros is `c = m = 0, n = 1`.
    """

    size, gates, recurrent = 3, 4, 4

    def step(self, parts: tuple[Tensor, ...], gates: tuple[Tensor, ...]) -> list[Tensor]:
        (q, size, h), (u_i, u_f, u_z, u_o) = parts, gates
        a_i, a_f, a_z, a_o = self.own
        write, keep = a_i * h + u_i, logsigmoid(a_f * h + u_f + 2) + size
        q = q + torch.sigmoid(write - keep) * (torch.tanh(a_z * h + u_z) - q)
        return [q, torch.logaddexp(write, keep), torch.sigmoid(a_o * h + u_o) * q]


class MinimalGatedUnit(torch.nn.Module):
    """The minimal gated unit (Zhou et al. 2016), with full matrices: it declares nothing, and `Newton` takes all of J.

    Args:
        features: of the input.
        units: of the cell.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units
        self.of_input = torch.nn.Linear(features, 2 * units)
        self.forget, self.candidate = (torch.nn.Linear(units, units, bias=False) for _ in range(2))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """One step in the convention of torch's cells, `(x, h) -> h`."""
        u_f, u_h = self.of_input(x).chunk(2, -1)
        f = torch.sigmoid(self.forget(h) + u_f - 1)
        return h + f * (torch.tanh(self.candidate(f * h) + u_h) - h)


class DeltaRule(torch.nn.Module):
    """A memory written by the delta rule: `s' = a s + beta k (v - tanh(k . s))`, with `a, beta, k, v` of the input.

    What the memory holds along the key k moves towards the value v, and the rest is kept: the Jacobian is
    `diag(a) - beta (1 - tanh^2) k k^T`, the identity minus rank one where `a = 1`.

    Args:
        features: of the input.
        units: of the memory.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.hidden_size = units
        self.keys = torch.nn.Linear(features, units)
        self.of_input = torch.nn.Linear(features, 2)
        self.decay = torch.nn.Parameter(3 + torch.randn(units, device=self.keys.weight.device))

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`k`, `beta` and `v` of all time steps."""
        strength, value = self.of_input(x).chunk(2, -1)
        return normalize(self.keys(x), dim=-1), torch.sigmoid(strength), torch.tanh(value)

    def forward(self, s: Tensor, u: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """One step for every row."""
        return self.linearize(s, u).value

    def linearize(self, s: Tensor, u: tuple[Tensor, Tensor, Tensor]) -> li.StructuredDerivatives:
        """Value and Jacobian, from one product with the key."""
        k, beta, v = u
        held, keep = torch.tanh((k * s).sum(-1, keepdim=True)), torch.sigmoid(self.decay)
        value = keep * s + beta * (v - held) * k
        back = (beta * (held**2 - 1) * k).unsqueeze(-1)
        return li.StructuredDerivatives(value, li.LowRank(keep.expand_as(s), k.unsqueeze(-1), back))


CELLS: dict[str, tuple[type[Any], str]] = {
    "leaky": (Leaky, "diagonal"),
    "paragru": (ParaGRU, "diagonal"),
    "paralstm": (ParaLSTM, "2 x 2 blocks"),
    "slstm": (SLSTM, "3 x 3 blocks"),
    "mgu": (MinimalGatedUnit, "none: full matrices"),
    "delta": (DeltaRule, "diagonal plus rank 1"),
}
"""The cells by name, and the structure that each declares."""
