"""The scheme that the page "Compose your own scheme" builds, on the sine problem: `python -m bench.edge.composed`.

Prints iterations over twenty noise seeds, solved as one batch (which changes no count), of the library's best untuned
method and of the page's scheme. The page has the same code; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from bench.edge.measure import one_thread
from bench.edge.problems import sine


def extent(lin):
    """The largest range of a coordinate over time, or the largest residual if that is more."""
    ranges = lin.value.amax(0) - lin.value.amin(0)
    return torch.maximum(ranges, lin.residual.abs().amax(0)).amax(-1, keepdim=True)


@dataclass(frozen=True)
class Causal(li.LDSApproximation):
    """Newton with a damping per row: later rows may be held back while earlier ones go on."""

    def init(self, guess):
        return torch.full_like(guess[..., :1], 0.25)

    def update(self, lin, carry):
        now = slice(lin.rows.start, lin.rows.start + len(lin.residual))
        k, carry = carry[now], carry.clone()
        d = lin.scan(li.Dense((1 - k).unsqueeze(-1) * lin.jacobian()), lin.residual)
        size = d.abs().amax(-1, keepdim=True) / extent(lin)
        m = size.nan_to_num(torch.inf).cummax(0).values
        less = torch.where(m < 1 / 4, k / 4, torch.where(m < 1, k / 2, k))
        carry[now] = torch.where(lin.open, torch.where(m > 4, (4 * k).clamp(max=0.95), less), k)
        return torch.where(m > 4, 0, d * (1 / (6 * size)).clamp(max=1)), carry


def settle(f, s0, inputs, length):
    """150 steps without noise, then the last 49 of them again and again."""
    path = li.sequential(f, s0, torch.zeros_like(inputs[:150]))
    times = torch.arange(length, device=s0.device)
    return path[torch.where(times < 150, times, 101 + (times - 150) % 49)]


def counts(length: int, seeds: int, method: li.LDSApproximation, guess: Any) -> Tensor:
    """Iterations per seed to a residual of 1e-10, `(seeds,)`; raises where one is not solved within 200."""
    problems = [sine(length, seed) for seed in range(1, seeds + 1)]
    first = problems[0]
    inputs = torch.stack([problem.inputs for problem in problems], 1)
    s0 = first.s0.expand(seeds, -1)
    return li.solve(first.f, s0, inputs, method, guess=guess, rtol=0, atol=first.atol, max_iters=200).iterations


def main() -> None:
    """T = 1,000 and 10,000."""
    one_thread()
    trust = li.TrustRegion(li.Newton())
    rows = (
        ("TrustRegion(Newton())", trust, li.repeat_initial),
        ("TrustRegion(Newton()), guess=settle", trust, settle),
        ("Causal()", Causal(), li.repeat_initial),
        ("Causal(), guess=settle", Causal(), settle),
    )
    for length in 1_000, 10_000:
        for name, method, guess in rows:
            found = counts(length, 20, method, guess).double()
            print(
                f"T={length:,}  {name}: median {float(found.quantile(0.5)):g}, {int(found.min())} to {int(found.max())}"
            )


if __name__ == "__main__":
    main()
