"""SRDS on any network and any scheduler: a peer of `bench.diffusion`.

Selvam, Merchant and Ermon, "Self-refining diffusion samplers: enabling parallelization via parareal iterations",
NeurIPS 2024, restated from the paper: parareal iteration over blocks of about sqrt(T) steps. The coarse solver takes a
block in one step, the fine one in all of its steps. Rounds are counted as the paper's pipelined form makes them: a
block begins its next pass as soon as its start is known, so that passes overlap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lds_iter.diffusion.sampled import Work

Solver = Callable[[Tensor, int, int], Tensor]
"""A sample before step `begin` to the sample before step `end`."""


def srds(fine: Solver, coarse: Solver, noise: Tensor, length: int) -> Iterator[tuple[Tensor, Work]]:
    """The final sample after every pass, with rounds and evaluations so far; the first is the coarse one alone.

    Args:
        fine: takes all steps of a block, one evaluation each.
        coarse: takes a block in one evaluation.
        noise: the sample before the first step.
        length: T.
    """
    size = math.isqrt(length - 1) + 1
    edges = [*range(0, length, size), length]
    blocks = list(itertools.pairwise(edges))
    starts, predicted = [noise], []
    for block in blocks:
        predicted.append(coarse(starts[-1], *block))
        starts.append(predicted[-1])
    ready = list(range(len(blocks) + 1))
    evaluations = len(blocks)
    yield starts[-1], Work(ready[-1], evaluations)
    for done in range(len(blocks)):  # after so many passes, so many blocks are exact
        corrected, new_ready = list(starts), list(ready)
        for place in range(done, len(blocks)):
            begin, end = blocks[place]
            refined = fine(starts[place], begin, end)
            evaluations += end - begin
            finished = ready[place] + end - begin
            if place > done:
                guessed = coarse(corrected[place], begin, end)
                evaluations += 1
                corrected[place + 1] = refined + guessed - predicted[place]
                predicted[place] = guessed
                new_ready[place + 1] = max(finished, new_ready[place] + 1)
            else:
                corrected[place + 1], new_ready[place + 1] = refined, finished
        starts, ready = corrected, new_ready
        yield starts[-1], Work(ready[-1], evaluations)


def ddim_solvers(
    network: Callable[[Tensor, Tensor, Tensor], Tensor], alphas: Tensor, timesteps: Tensor
) -> tuple[Solver, Solver]:
    """The fine and the coarse solver by DDIM's formula, without clipping, for a network that predicts noise.

    Args:
        network: outputs for images `(N, *shape)`, timesteps `(N,)` and places `(N,)`.
        alphas: the squared signal level before each step and after the last, `(T + 1,)`, float64.
        timesteps: `(T,)`.
    """

    def step(sample: Tensor, begin: int, end: int) -> Tensor:
        places = torch.arange(len(sample))
        output = network(sample, timesteps[begin].expand(len(sample)), places)
        now, after = (alphas[at].to(sample.dtype) for at in (begin, end))
        image = (sample - (1 - now).sqrt() * output) / now.sqrt()
        return after.sqrt() * image + (1 - after).sqrt() * output

    def fine(sample: Tensor, begin: int, end: int) -> Tensor:
        for at in range(begin, end):
            sample = step(sample, at, at + 1)
        return sample

    return fine, step
