"""The laws of a scan: that it solves `x_t = A_t x_{t-1} + b_t`, however it does so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lds_iter.linear.arguments import check_is_transition
from lds_iter.linear.linear_scan import linear_scan, reference_scan
from lds_iter.linear.registry import Scan, kernel_of
from lds_iter.linear.transitions import AbstractTransition, leaves, map_leaves, take
from lds_iter.methods.spelling import spelled
from lds_iter.testing.findings import Examination, Findings
from lds_iter.testing.of_transitions import near, random_vectors, room

Solve = Callable[[AbstractTransition, Tensor, Tensor | None], Tensor]


@spelled
def check_scan(
    transition: AbstractTransition, like: Tensor, scan: Scan | None = None, *, seed: int = 0, throw: bool = True
) -> Findings:
    """Check the scan of a structure against the loop over time, on one instance of n rows.

    Args:
        transition: the matrices of n rows, with random numbers in all of them; n = 9 or more meets odd lengths.
        like: a tensor `(n, *batch, D)` that gives shape, dtype and device; best in float64.
        scan: `(transition, x, initial)`, in place, before it is registered; None for what `linear_scan` uses, with its
            reverse and its gradient.
        seed: of the vectors.
        throw: raise where a law does not hold; otherwise see `Findings.passed`.

    Returns:
        What was found, law by law: print it.

    Raises:
        BrokenLaws: an AssertionError, with the findings.
        TypeError, ValueError: for what is no transition of the rows of `like`.

    Example:
        >>> like = torch.randn(9, 2, 6, dtype=torch.float64)
        >>> li.testing.check_scan(li.Diagonal(torch.rand_like(like)), like).passed
        True
    """
    check_is_transition(transition, like, "`transition` must be")
    look = Examination(f"the scan of {type(transition).__name__}")
    transition = map_leaves(torch.clone, transition)
    solve = linear_scan if scan is None else _in_place(scan)
    with torch.no_grad():
        _check_purity(look, solve, map_leaves(torch.clone, transition), like, seed)
        _check_solution(look, solve, transition, like, seed)
        _check_stretches(look, solve, transition, like, seed)
        if scan is None:
            _check_reverse(look, transition, like, seed)
    if scan is None:
        _check_gradient(look, transition, like, seed)
        used = kernel_of(type(transition), like.device.type).forward
        if used is None:
            look.note(
                f"No scan is registered for {type(transition).__name__} on {like.device.type}: what runs is "
                "li.reference_scan, from `mv` and `after`. A faster one is added with li.register_scan."
            )
        else:
            look.note(f"What runs on {like.device.type} is {used.__module__}.{used.__qualname__}.")
    return look.ended(throw)


def _in_place(scan: Scan) -> Solve:
    def solved(transition: AbstractTransition, b: Tensor, initial: Tensor | None = None) -> Tensor:
        x = b.clone()
        if scan(transition, x, initial) is not None:
            raise TypeError("The scan returns a value. Write the solution into `x` (`x.copy_(solution)`).")
        return x

    return solved


def step_by_step(transition: AbstractTransition, b: Tensor, initial: Tensor | None) -> Tensor:
    """The loop over time, by `mv` alone."""
    rows, x = [], torch.zeros_like(b[0]) if initial is None else initial
    for t in range(b.shape[0]):
        x = take(transition, slice(t, t + 1)).mv(x[None])[0] + b[t]
        rows.append(x)
    return torch.stack(rows)


def _check_solution(look: Examination, solve: Solve, a: AbstractTransition, like: Tensor, seed: int) -> None:
    (b,), part = random_vectors(like, seed, 1), len(like) * room(a, like)
    initial = random_vectors(like[:1], seed + 1, 1)[0][0]
    with look.law(
        "equals the loop over time",
        "x_t = A_t x_{t-1} + b_t from zero and from an initial value, for 1, 2, 3 and n rows",
        "On entry `x` holds b, on return the solution, in place. In order of likelihood: the initial value is left out "
        "(None stands for zero); odd lengths end one row short; `after` is wrong (li.testing.check_transition).",
    ) as measured:
        for n in sorted({1, min(2, len(b)), min(3, len(b)), len(b)}):
            rows = slice(0, n)
            for start in None, initial:
                given = take(a, rows)
                expected = step_by_step(given, b[rows], start)
                what = f"{n} row(s) from {'zero' if start is None else 'an initial value'}"
                near(measured, solve(given, b[rows], start), expected, what, part)
    with look.law(
        "equals the reference",
        "the scan from `mv` and `after` alone, li.reference_scan",
        "If the law above holds and this one does not, it is `after` that is wrong, and not the scan.",
    ) as measured:
        expected = b.clone()
        reference_scan(a, expected, initial)
        near(measured, solve(a, b, initial), expected, "li.reference_scan", part)


def _check_purity(look: Examination, solve: Solve, a: AbstractTransition, like: Tensor, seed: int) -> None:
    b, initial = random_vectors(like, seed, 1)[0], random_vectors(like[:1], seed + 1, 1)[0][0]
    with look.law(
        "leaves the matrices alone",
        "the transition and the initial value must stay as they are: a method may keep them",
        "Write into `x` and into memory of your own only.",
    ) as measured:
        before, start = [leaf.clone() for leaf in leaves(a)], initial.clone()
        solve(a, b, initial)
        same = all(torch.equal(one, other) for one, other in zip(before, leaves(a), strict=True))
        measured.true(same and torch.equal(start, initial), "a matrix or the initial value has changed")


def _check_stretches(look: Examination, solve: Solve, a: AbstractTransition, like: Tensor, seed: int) -> None:
    (b,), part = random_vectors(like, seed, 1), len(like) * room(a, like)
    with look.law(
        "can be split",
        "scanning two stretches, the second from where the first ended, is scanning all at once",
        "The initial value is that before the first row: the first row is A_1 initial + b_1.",
    ) as measured:
        whole = solve(a, b, None)
        for cut in sorted({1, len(b) // 2, len(b) - 1} - {0, len(b)}):
            parts, x = [], None
            for start, stop in pairwise((0, cut, len(b))):
                parts.append(solve(take(a, slice(start, stop)), b[start:stop], x))
                x = parts[-1][-1]
            near(measured, torch.cat(parts), whole, f"split at {cut}", part)


def _check_reverse(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    (b,), part = random_vectors(like, seed, 1), len(like) * room(a, like)
    with look.law(
        "runs backwards",
        "`reverse=True` is the scan of flipped time",
        "See the registered reverse scan; without one, a reversed scan is a scan of flipped copies.",
    ) as measured:
        flipped = map_leaves(lambda leaf: leaf.flip(0), a)
        for start in None, b[0].clone():
            expected = step_by_step(flipped, b.flip(0), start).flip(0)
            near(measured, linear_scan(a, b, start, reverse=True), expected, "reverse", part)


def _check_gradient(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    b, weights = random_vectors(like, seed, 2)
    part = 16 * len(like) * room(a, like)
    initial = random_vectors(like[:1], seed + 1, 1)[0][0]
    with (
        look.law(
            "has the gradient of the loop",
            "in every tensor of the transition, in b and in the initial value",
            "The gradient is a scan with `transpose()`, and a derivative of `mv`: check both, and that `mv` is made of "
            "differentiable operations.",
        ) as measured,
        torch.enable_grad(),
    ):
        flat = [leaf.detach().clone().requires_grad_(leaf.is_floating_point()) for leaf in leaves(a)]
        remaining = iter(flat)
        own = map_leaves(lambda _: next(remaining), a)
        wanted = [b.requires_grad_(), initial.requires_grad_(), *(leaf for leaf in flat if leaf.requires_grad)]
        ours, theirs = (
            torch.autograd.grad((solve(own, b, initial) * weights).sum(), wanted, allow_unused=True)
            for solve in (linear_scan, step_by_step)
        )
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            name = ("b", "the initial value")[index] if index < 2 else f"tensor {index - 2} of the transition"
            zero = torch.zeros_like(wanted[index])
            near(measured, zero if one is None else one, zero if other is None else other, name, part)
