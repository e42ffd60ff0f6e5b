"""ParaTAA on any network and any scheduler whose table has one slot: a peer of `bench.diffusion`.

Tang et al., "Accelerating parallel sampling of diffusion models", ICML 2024, restated from the paper and from
github.com/TZW1998/ParaTAA-Diffusion. A step is `x_{t+1} = a_t x_t + b_t m(x_t) + q_t`. The equations of order k are k
steps in one, from the state k steps earlier, with all outputs `m` at the current iterate; with k = T that is Picard's
iteration. The residuals of these equations are driven down by Anderson's acceleration, made triangular: the
combination for a row looks at that row and those before it. The first row that is not finished is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lds_iter.diffusion.sampled import Work
from lds_iter.diffusion.schedule import Schedule

RIDGE = 1e-3
"""As published."""

FINISHED = 1e-5
"""Root mean square residual of a row that is done. Published is 1e-3, too much where that is the error to reach."""


def parataa(
    network: Callable[[Tensor, Tensor, Tensor], Tensor],
    schedule: Schedule,
    noise: Tensor,
    added: Tensor | None = None,
    *,
    order: int,
    memory: int = 3,
) -> Iterator[tuple[Tensor, Work]]:
    """The final sample after every round, with all that it has cost, until all rows are finished.

    Args:
        network: outputs for images `(N, *shape)`, timesteps `(N,)` and places in the batch `(N,)`.
        schedule: of one slot, without clipping.
        noise: the sample to start from, `(1, *shape)`.
        added: the noise that each step adds, `(T, 1, *shape)`; None for none.
        order: of the equations, 1 to T.
        memory: iterates that are combined; 1 for none.
    """
    gain, weight = schedule.linear[:, 0, 0], schedule.model[:, 0]
    length, work = len(schedule), Work()
    states = noise.double().flatten(1).repeat(length + 1, 1)
    fresh = torch.zeros_like(states[1:]) if added is None else added.double().flatten(1)
    past: list[tuple[Tensor, Tensor]] = []
    done = 0
    while done < length:
        seen = (schedule.input_scale[done:, None] * states[done:-1]).to(noise.dtype).view(-1, *noise.shape[1:])
        places = torch.zeros(length - done, dtype=torch.long)
        output = network(seen, schedule.timesteps[done:], places).double().flatten(1)
        work.rounds, work.evaluations = work.rounds + 1, work.evaluations + len(output)
        driven = weight[done:, None] * output + fresh[done:]
        plain = gain[done:, None] * states[done:-1] + driven - states[done + 1 :]
        unfinished = plain.square().mean(-1).sqrt() > FINISHED
        first = int(unfinished.int().argmax()) if bool(unfinished.any()) else length - done
        residual = _of_order(gain[done:], states[done:], driven, order) - states[done + 1 :]
        past = [(kept[-len(residual) :], found[-len(residual) :]) for kept, found in past]
        past = [*past, (states[done + 1 :].clone(), residual)][-memory:]
        correction = _triangular(past)
        correction[: first + 1] = 0
        states[done + 1 :] += residual - correction
        done += min(first + 1, length - done)
        yield states[-1].view_as(noise).to(noise.dtype), Work(work.rounds, work.evaluations)


def _of_order(gain: Tensor, states: Tensor, driven: Tensor, order: int) -> Tensor:
    """Each row from the state `order` steps before it, or from the first state, `(n, D)`."""
    value = states[:-1].clone()
    n = len(value)
    for back in range(order - 1, -1, -1):  # all rows take one of their steps at a time, the earliest first
        rows = torch.arange(n)
        step = rows - back
        starts = (step == (rows - order + 1).clamp(min=0)).unsqueeze(-1)
        at = step.clamp(min=0)
        value = torch.where(starts, states[at], value)
        value = torch.where((step >= 0).unsqueeze(-1), gain[at, None] * value + driven[at], value)
    return value


def _triangular(past: list[tuple[Tensor, Tensor]]) -> Tensor:
    """What Anderson's acceleration takes off the residual of each row, from sums over that row and those before it."""
    states, residuals = (torch.stack(each) for each in zip(*past, strict=True))  # (m, n, D)
    if len(past) == 1:
        return torch.zeros_like(residuals[-1])
    moved, changed = states.diff(dim=0), residuals.diff(dim=0)
    gram = torch.einsum("ind,jnd->nij", changed, changed).cumsum(0)
    shown = torch.einsum("ind,nd->ni", changed, residuals[-1]).cumsum(0)
    ridge = RIDGE * torch.eye(len(changed), dtype=gram.dtype)
    return torch.einsum("ind,ni->nd", moved + changed, torch.linalg.solve(gram + ridge, shown))
