"""Recurrences from the literature, each a function that returns `(f, s0, inputs)` as `li.solve` takes them.

A problem is a function of its arguments alone, and made on the CPU; functions with an argument `device` move it there.
Where a source publishes its program, which is in JAX, its very numbers are drawn: `Threefry` is the generator of JAX
(0.5 and later, `jax_threefry_partitionable`), so that counts can be compared seed by seed. The GRUs, whose parameters
flax and PyTorch draw, share the distributions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import init

import lds_iter as li
from lds_iter.nn.gru import GRURecurrence


class Problem(NamedTuple):
    """What `li.solve` takes first.

    Attributes:
        f: the recurrence, `f(s, u)`, batched over all leading dimensions.
        s0: the state before the first step, `(*batch, D)`.
        inputs: a pytree of tensors that lead with T.
    """

    f: Callable[[Tensor, Any], Tensor]
    s0: Tensor
    inputs: Any


class Threefry:
    """JAX's random numbers: Threefry-2x32 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).

    Equal to `jax.random` bit for bit, but for the rounding of the inverse error function in `normal`.

    Args:
        key: two 32-bit words.
    """

    def __init__(self, *key: int) -> None:
        self._key = key

    @staticmethod
    def seeded(seed: int) -> Threefry:
        """`jax.random.PRNGKey(seed)`."""
        return Threefry(0, seed)

    def split(self, index: int) -> Threefry:
        """`jax.random.split(key, n)[index]`, the same for every n."""
        words = self._words(torch.tensor([index], device="cpu"))
        return Threefry(*[int(word) for word in words])

    def uniform(self, shape: tuple[int, ...], low: float, high: float, dtype: torch.dtype) -> Tensor:
        """Numbers in `[low, high)` of dtype float32 or float64."""
        first, second = self._words(torch.arange(math.prod(shape), device="cpu"))
        if dtype == torch.float32:
            unit = (((first ^ second) >> 9) | 0x3F800000).to(torch.int32).view(dtype) - 1
        else:
            unit = ((first << 20) | (second >> 12) | (0x3FF << 52)).view(dtype) - 1
        return (unit * (high - low) + low).clamp(min=low).view(shape)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers."""
        low = -1 + torch.finfo(dtype).eps / 2
        return math.sqrt(2) * self.uniform(shape, low, 1, dtype).erfinv()

    def integers(self, shape: tuple[int, ...], bound: int) -> Tensor:
        """Integers in `[0, bound)`: two words each, as `jax.random.randint`."""
        high, low = (
            (a ^ b) for a, b in (self.split(i)._words(torch.arange(math.prod(shape), device="cpu")) for i in range(2))
        )
        shift = pow(2**16 % bound, 2) % bound
        return ((high % bound * shift + low % bound) % bound).view(shape)

    def _words(self, counter: Tensor) -> tuple[Tensor, Tensor]:
        k0, k1 = self._key
        keys = (k0, k1, k0 ^ k1 ^ 0x1BD11BDA)
        x, y = ((counter >> 32) + k0) & _MASK, (counter + k1) & _MASK
        for block in range(5):
            for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
                x = (x + y) & _MASK
                y = x ^ (((y << turn) | (y >> (32 - turn))) & _MASK)
            x, y = (x + keys[(block + 1) % 3]) & _MASK, (y + keys[(block + 2) % 3] + block + 1) & _MASK
        return x, y


_MASK = 0xFFFFFFFF


def normal_guess(seed: int, stream: int = 1) -> Callable[..., Tensor]:
    """A guess policy: independent N(0, 1) numbers, from the given stream of the seed's key."""

    def guess(f: Any, s0: Tensor, inputs: Any, length: int) -> Tensor:  # noqa: ARG001
        return Threefry.seeded(seed).split(stream).normal((length, *s0.shape), s0.dtype).to(s0.device)

    return guess


def uniform_guess(seed: int, stream: int = 5) -> Callable[..., Tensor]:
    """A guess policy: independent U(-1, 1) numbers, from the given stream of the seed's key."""

    def guess(f: Any, s0: Tensor, inputs: Any, length: int) -> Tensor:  # noqa: ARG001
        return Threefry.seeded(seed).split(stream).uniform((length, *s0.shape), -1, 1, s0.dtype).to(s0.device)

    return guess


def two_well_guess(f: Any, s0: Tensor, inputs: Any, length: int) -> Tensor:  # noqa: ARG001
    """The guess policy for `two_well_langevin`: N(0, 1) numbers, each batch mate's from the seed of its index."""
    draws = [Threefry.seeded(mate).split(0).normal((length, s0.shape[-1]), s0.dtype) for mate in range(s0.shape[0])]
    return torch.stack(draws, 1).to(s0.device)


def orthogonal_gru(width: int, length: int, seed: int = 0) -> Problem:
    """The GRU of the DEER benchmark: flax's `GRUCell` at initialisation, inputs N(0, 1) of the same width, h_0 = 0.

    Every recurrent D x D matrix is orthogonal, every input matrix lecun-normal (normal of variance 1/D, cut at two
    standard deviations), biases zero. float32. Lim, Zhu, Selfridge, Kasim, ICLR 2024; machine-discovery/deer,
    `experiments/01_speed_benchmark/seq1d.py`.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    weight_hh, weight_ih = (torch.empty(3, width, width, device="cpu") for _ in range(2))
    # 0.8796 is the standard deviation of N(0, 1) cut at two.
    deviation = math.sqrt(1 / width) / 0.87962566103423978
    for gate in range(3):
        init.orthogonal_(weight_hh[gate], generator=generator)
        init.trunc_normal_(weight_ih[gate], std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
    gru = GRURecurrence(weight_ih.flatten(0, 1), weight_hh.flatten(0, 1))
    x = torch.randn(length, width, generator=generator, device="cpu")
    return Problem(gru, torch.zeros(width, device="cpu"), gru.inputs(x))


def default_gru(width: int, length: int, seed: int = 0) -> Problem:
    """`torch.nn.GRU` as PyTorch initialises it, U(-D^-1/2, D^-1/2); D inputs N(0, 1), h_0 = 0. float32."""
    generator = torch.Generator("cpu").manual_seed(seed)
    module = torch.nn.GRU(width, width, device="cpu").requires_grad_(False)
    for parameter in module.parameters():
        parameter.uniform_(-(width**-0.5), width**-0.5, generator=generator)
    gru = GRURecurrence.from_module(module)
    x = torch.randn(length, width, generator=generator, device="cpu")
    return Problem(gru, torch.zeros(width, device="cpu"), gru.inputs(x))


def word_problem(length: int, seed: int = 0, start: Tensor | None = None) -> Problem:
    """The word problem of the group S5: `s' = P_u s`, P_u one of the 120 permutation matrices of 5 things.

    `start` has shape `(5, m)`; the state is its 5 m numbers. The identity (the default, D = 25) gives the running
    product itself; `(1, 2, 3, 4, 5)` as one column (D = 5) is what the source runs. Not a contraction: every step
    keeps all norms. float32. lindermanlab/parallelizing_with_lds, `src/s5_word.py`
    (the first sequence of its batch).
    """
    start = torch.eye(5, device="cpu") if start is None else start
    matrices = torch.stack([torch.eye(5, device="cpu")[list(order)] for order in permutations(range(5))])
    words = Threefry.seeded(seed).split(0).integers((length,), 120)

    def f(s: Tensor, u: Tensor) -> Tensor:
        return (matrices[u] @ s.unflatten(-1, start.shape)).flatten(-2)

    return Problem(f, start.flatten(), words)


class MeanFieldRNN:
    """`s' = W tanh(s) + u`, with its Jacobian `W diag(1 - tanh(s)^2)` in closed form.

    Args:
        weight: `W`, `(D, D)`.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        return torch.nn.functional.linear(s.tanh(), self.weight) + u

    def linearize(self, s: Tensor, u: Tensor) -> MeanFieldDerivatives:
        return MeanFieldDerivatives(s, u, self.weight)


class MeanFieldDerivatives(li.AbstractDerivatives):
    """The value of a `MeanFieldRNN` and its derivatives, from one evaluation of tanh."""

    def __init__(self, s: Tensor, u: Tensor, weight: Tensor) -> None:
        activity = s.tanh()
        self._weight, self._slope = weight, 1 - activity.square()
        self.value = torch.nn.functional.linear(activity, weight) + u

    def jvp(self, v: Tensor) -> Tensor:
        return torch.nn.functional.linear(self._slope * v, self._weight)

    def vjp(self, w: Tensor) -> Tensor:
        return self._slope * (w @ self._weight)

    def jacobian(self) -> Tensor:
        return self._weight * self._slope.unsqueeze(-2)

    def diagonal(self) -> Tensor:
        return self._weight.diagonal() * self._slope

    def block_diagonal(self, size: int) -> Tensor:
        count = self._weight.shape[0] // size
        own = torch.arange(count, device=self._weight.device)
        blocks = self._weight.view(count, size, count, size)[own, :, own]
        return blocks * self._slope.unflatten(-1, (count, size)).unsqueeze(-2)


def mean_field_rnn(
    gain: float, width: int = 100, length: int = 1000, seed: int = 0, device: torch.device | str = "cpu"
) -> Problem:
    """A random network that turns chaotic at a gain of about 1 (later under a drive): `s' = W tanh(s) + u`. float64.

    `W_ij ~ N(0, gain^2 / D)` with `W_ii = 0`; the drive is `u_t = a sin(w t + p)` per coordinate, a ~ U(0, 0.2),
    w ~ U(0.5, 3), p ~ U(0, 2 pi); s_0 ~ U(-1, 1). "Predictability enables parallelization of nonlinear state space
    models" (Gonzalez, Kozachkov, Zoltowski, Clarkson, Linderman 2025), figure 2;
    lindermanlab/predictability_enables_parallelization, `experiments/fig2.py`.
    """
    key, dtype = Threefry.seeded(seed), torch.float64
    amplitude = key.split(0).uniform((width,), 0, 0.2, dtype)
    frequency = key.split(1).uniform((width,), 0.5, 3.0, dtype)
    phase = key.split(2).uniform((width,), 0, 2 * math.pi, dtype)
    s0 = key.split(3).uniform((width,), -1, 1, dtype)
    weight = key.split(4).normal((width, width), dtype) * gain / math.sqrt(width)
    weight.fill_diagonal_(0)
    times = torch.arange(length, dtype=dtype, device="cpu").unsqueeze(-1)
    drive = amplitude * torch.sin(frequency * times + phase)
    return Problem(MeanFieldRNN(weight.to(device)), s0.to(device), drive.to(device))


def mixture_langevin(
    width: int = 32, length: int = 1000, step: float = 1e-5, seed: int = 0, device: torch.device | str = "cpu"
) -> Problem:
    """Unadjusted Langevin dynamics on two anisotropic Gaussians: `s' = s + e grad log p(s) + sqrt(2 e) u`. float32.

    Means 1 and 0 in every coordinate, `log p_k = -(s - m_k)^T L_k (s - m_k)` (no half), `L_k` Wishart with D + 1
    degrees of freedom, equal weights, u ~ N(0, 1), s_0 = 0. lindermanlab/parallelizing_with_lds, experiment "well" of
    `experiments/harness.py` (the first sequence of its batch).
    """
    key, dtype = Threefry.seeded(seed), torch.float32
    factors = torch.stack([key.split(index).normal((width + 1, width), dtype) for index in (3, 4)])
    zeros = torch.zeros(2, width, device=device)
    means = torch.stack([zeros[0] + 1, zeros[1]])
    score = _mixture_score(means, (2 * factors.mT @ factors).to(device), zeros[:, 0])
    noise = key.split(0).normal((length, width), dtype).to(device)
    return Problem(_langevin(score, step), zeros[0], noise)


def two_well_langevin(
    seeds: int = 20, length: int = 10_000, step: float = 0.01, device: torch.device | str = "cpu"
) -> Problem:
    """Unadjusted Langevin dynamics between two wells of the plane, one batch mate per noise seed. float64.

    Means (-1.4, 0) and (1.6, 0), variances (.45, .45) and (.54, .45), weights .49 and .51, u ~ N(0, 1), s_0 = 0.
    "Predictability enables parallelization ..." figure 3; `src/examples/two_well.py` of its code.
    """
    dtype = torch.float64
    means = torch.tensor([[-1.4, 0.0], [1.6, 0.0]], dtype=dtype, device=device)
    variances = torch.tensor([[0.45, 0.45], [0.54, 0.45]], dtype=dtype, device=device)
    weights = torch.tensor([0.49, 0.51], dtype=dtype, device=device)
    score = _mixture_score(means, torch.diag_embed(1 / variances), weights.log() - variances.log().sum(-1) / 2)
    noise = torch.stack([Threefry.seeded(seed).split(1).normal((length, 2), dtype) for seed in range(seeds)], 1)
    return Problem(_langevin(score, step), torch.zeros(seeds, 2, dtype=dtype, device=device), noise.to(device))


def _langevin(score: Callable[[Tensor], Tensor], step: float) -> Callable[[Tensor, Tensor], Tensor]:
    def f(s: Tensor, u: Tensor) -> Tensor:
        return s + step * score(s) + math.sqrt(2 * step) * u

    return f


def _mixture_score(means: Tensor, precisions: Tensor, log_weights: Tensor) -> Callable[[Tensor], Tensor]:
    """`grad log sum_k exp(w_k - (s - m_k)^T P_k (s - m_k) / 2)`; `(K, D)`, `(K, D, D)`, `(K,)`."""

    def score(s: Tensor) -> Tensor:
        gap = s.unsqueeze(-2) - means  # (..., K, D)
        pull = torch.einsum("...ki,kij->...kj", gap, precisions)
        share = (log_weights - (gap * pull).sum(-1) / 2).softmax(-1)
        return -(share.unsqueeze(-1) * pull).sum(-2)

    return score
