"""The scan `x_t = A_t x_{t-1} + b_t` over time steps that several ranks hold.

The steps of one rank together are an affine map of the state before them, `x -> A x + b`, where `A` is the product of
its matrices and `b` the end of its own scan from zero. One all-gather brings the maps of all ranks to every rank:

    D^2 + D numbers a rank for `Dense`, 2 D for `Diagonal`, D for `Identity`, the leaves and D for a structure of yours

Every rank scans those before its own, which is as many steps as there are ranks, and runs its own steps again from the
state found. (Blelloch, "Prefix sums and their applications", 1990, section 1.2: processors that hold blocks.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from lds_iter.distributed.shards import TimeShards
from lds_iter.linear.cut import Cut, cut_scan
from lds_iter.linear.linear_scan import linear_scan
from lds_iter.linear.transitions import A, AbstractTransition, ScaledIdentity, leaves, map_leaves, take


def shared_scan(shards: TimeShards, transition: AbstractTransition, b: Tensor, cut: Cut) -> Tensor:
    """Solve `x_t = A_t x_{t-1} + b_t` for the rows of this rank, cut at the frontier, from zero before the first step.

    Args:
        shards: who holds the other time steps.
        transition: the matrices of this rank's rows.
        b: `(n, *batch, D)`; zero in the rows before the frontier.
        cut: see `Cut`.
    """
    alone = cut_scan(transition, b, torch.zeros_like(b[0]), cut)
    # A rank that holds the frontier row, or lies before it, passes nothing on: its product has a zero factor.
    keep = (cut.frontier < cut.start).to(b.dtype)[None, ..., None].expand(1, *b.shape[1:-1], 1)
    before = _carried(shards, _fold(transition, b).scaled(keep), alone[-1:])
    return alone if before is None else cut_scan(transition, b, before, cut)


def shared_reverse_scan(shards: TimeShards, transition: AbstractTransition, b: Tensor) -> Tensor:
    """The same for `x_t = A_t x_{t+1} + b_t`, from zero after the last step, with nothing cut."""
    alone = linear_scan(transition, b, reverse=True)
    flipped = map_leaves(lambda leaf: leaf.flip(0), transition)
    after = _carried(shards.reversed(shards.sizes), _fold(flipped, b), alone[:1])
    return alone if after is None else linear_scan(transition, b, after, reverse=True)


def _product(transition: A, rows: int) -> A:
    """The product of all matrices, the last one leftmost, as a transition of one row.

    Args:
        transition: the matrices of `rows` steps.
        rows: how many; a structure without leaves does not say.
    """
    while rows > 1:
        pairs, odd = rows // 2, rows % 2
        together = take(transition, slice(1, 2 * pairs, 2)).after(take(transition, slice(0, 2 * pairs, 2)))
        if odd:
            last = _product(together, pairs)
            return take(transition, slice(rows - 1, rows)).after(last)
        transition, rows = together, pairs
    return transition


def _fold(transition: AbstractTransition, like: Tensor) -> AbstractTransition:
    """The product of this rank's matrices, in a structure that does not depend on how many they are."""
    rows = like.shape[0]
    folded = _product(_with_leaves(transition, rows, like), rows)
    return folded.dense(like[:1]) if _grows(take(transition, slice(0, 1))) else folded


def _carried(shards: TimeShards, folded: AbstractTransition, last: Tensor) -> Tensor | None:
    """The state that the time steps of all earlier ranks lead to, `(*batch, D)`; None for the first rank.

    Args:
        shards: the ranks.
        folded: the product of this rank's matrices.
        last: the end of this rank's scan from zero, `(1, *batch, D)`.
    """
    batch = last.shape[1:-1]
    folded = map_leaves(lambda leaf: leaf.expand(1, *batch, *leaf.shape[1 + len(batch) :]), folded)
    gathered = shards.gather(*leaves(folded), last, what=f"transitions {_signature(folded)} and")
    *found, ends = (shards.in_order(x.squeeze(1)) for x in gathered)
    before = shards.place
    if before == 0:
        return None
    given = iter(found)
    maps = map_leaves(lambda _: next(given)[:before], folded)
    return linear_scan(maps, ends[:before])[-1]


def _with_leaves(transition: AbstractTransition, rows: int, like: Tensor) -> AbstractTransition:
    """A multiple of the identity with a tensor in place of a number: the ranks' products are different numbers."""
    if not isinstance(transition, ScaledIdentity) or isinstance(transition.scale, Tensor):
        return transition
    return ScaledIdentity(like.new_full((rows, *[1] * (like.ndim - 1)), transition.scale))


def _grows(one: AbstractTransition) -> bool:
    """Whether a product is larger than its factors, as that of matrices of low rank is. One row tells, so that all
    ranks give the same answer however many rows they hold."""
    together = one.after(one)
    return [leaf.shape for leaf in leaves(together)] != [leaf.shape for leaf in leaves(one)]


def _signature(transition: AbstractTransition) -> str:
    """A structure in words, without the shapes of its leaves."""
    inner = [_signature(value) for value in vars(transition).values() if isinstance(value, AbstractTransition)]
    return f"{type(transition).__name__}({', '.join(inner)})"
