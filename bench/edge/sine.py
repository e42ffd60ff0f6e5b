"""An autoregressive GRU that generates a noisy sine wave: the recurrence, with its Jacobian in closed form.

    h'     = GRU(h, x)                         three hidden units read the last observation
    x'     = w_m . h' + b_m + softplus(w_s . h' + b_s) u       u ~ N(0, 1), the input

The state is `(x, h)`, D = 4: the network reads its own output, noise included, so that the noise is what drives it and
nothing fixes the phase of the wave. A wave that keeps its phase has a largest Lyapunov exponent of zero: the edge of
stability. After "Towards scalable and stable parallelization of nonlinear RNNs" (Gonzalez, Warrington, Smith,
Linderman, NeurIPS 2024), figure 4; lindermanlab/elk, `elk/models/flow.py`. `train_sine` makes the weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import lds_iter as li
from lds_iter.nn._weights import layer_weights

HIDDEN = 3
WEIGHTS = Path(__file__).with_name("sine.safetensors")


def read_weights(file: Path) -> dict[str, Tensor]:
    """The float32 tensors of a safetensors file, without that package, which a machine with a GPU may not have.

    The file is the length of a header in 8 bytes, the header in JSON, and the numbers (the format's README).
    """
    raw = file.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        numbers = torch.frombuffer(bytearray(raw[start + first : start + end]), dtype=torch.float32)
        tensors[name] = numbers.view(entry["shape"])
    return tensors


class SineGRU(nn.Module):
    """The autoregressive network as a recurrence `f(s, u)`: states `(n, *batch, 4)`, noise `(n, *batch, 1)`.

    Args:
        gru: the layer that holds the recurrent weights, one input and three hidden units; torch's when None.
    """

    def __init__(self, gru: nn.GRU | None = None) -> None:
        super().__init__()
        self.gru = nn.GRU(1, HIDDEN) if gru is None else gru
        self.decoder = nn.Linear(HIDDEN, 2)

    @staticmethod
    def trained(dtype: torch.dtype = torch.float64) -> SineGRU:
        """With the committed weights (float32, exactly), without gradients."""
        network = SineGRU()
        network.load_state_dict(read_weights(WEIGHTS))
        return network.to(dtype).requires_grad_(False)

    def forward(self, s: Tensor, u: Tensor) -> Tensor:
        return self.linearize(s, u).value

    def linearize(self, s: Tensor, u: Tensor) -> SineDerivatives:
        """The value and the closed-form derivatives."""
        return SineDerivatives(s, u, self)


class SineDerivatives(li.AbstractDerivatives):
    """The step of a `SineGRU` and its Jacobian.

    With `W_k = [W_ik W_hk]`, which reads the whole state `s = (x, h)`, and `q = W_hn h + b_hn`:

        B = d h'/ds = a_r W_r + a_z W_z + g [W_in  r W_hn] + [0  diag z]
        a_z = (h - n) z (1 - z)     g = (1 - z) (1 - n^2)     a_r = g q r (1 - r)
        J = [rho B; B]              rho = w_m + sigmoid(w_s . h' + b_s) u w_s
    """

    def __init__(self, s: Tensor, u: Tensor, network: SineGRU) -> None:
        gru, h = layer_weights(network.gru, 0, False), s[..., 1:]
        (i_r, i_z, i_n), (h_r, h_z, h_n) = gru["weight_ih"].chunk(3), gru["weight_hh"].chunk(3)
        bias_r, bias_z, bias_n = gru["bias_ih"].chunk(3)
        hidden_r, hidden_z, hidden_n = gru["bias_hh"].chunk(3)
        w_r, w_z = torch.cat([i_r, h_r], -1), torch.cat([i_z, h_z], -1)
        r = functional.linear(s, w_r, bias_r + hidden_r).sigmoid()
        z = functional.linear(s, w_z, bias_z + hidden_z).sigmoid()
        q = functional.linear(h, h_n, hidden_n)
        n = torch.tanh(functional.linear(s[..., :1], i_n, bias_n) + r * q)
        new = n + z * (h - n)
        mean, scale = functional.linear(new, network.decoder.weight, network.decoder.bias).split(1, -1)
        self.value = torch.cat([mean + functional.softplus(scale) * u, new], -1)
        self._gates, self._weights = (r, z, q, n, h), (w_r, w_z, i_n, h_n)
        w_mean, w_scale = network.decoder.weight
        self._readout = w_mean + scale.sigmoid() * u * w_scale

    def jacobian(self) -> Tensor:
        (r, z, q, n, h), (w_r, w_z, i_n, h_n) = self._gates, self._weights
        through = (1 - z) * (1 - n * n)
        a_r, a_z = through * q * r * (1 - r), (h - n) * z * (1 - z)
        inner = torch.cat([i_n.expand(*r.shape, 1), r.unsqueeze(-1) * h_n], -1)
        hidden = a_r.unsqueeze(-1) * w_r + a_z.unsqueeze(-1) * w_z + through.unsqueeze(-1) * inner
        hidden[..., 1:].diagonal(dim1=-2, dim2=-1).add_(z)
        return torch.cat([self._readout.unsqueeze(-2) @ hidden, hidden], -2)

    def jvp(self, v: Tensor) -> Tensor:
        return (self.jacobian() @ v.unsqueeze(-1)).squeeze(-1)

    def vjp(self, w: Tensor) -> Tensor:
        return (w.unsqueeze(-2) @ self.jacobian()).squeeze(-2)

    def diagonal(self) -> Tensor:
        return self.jacobian().diagonal(dim1=-2, dim2=-1)

    def block_diagonal(self, size: int) -> Tensor:
        blocks = self.jacobian().unflatten(-1, (-1, size)).unflatten(-3, (-1, size))
        return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
