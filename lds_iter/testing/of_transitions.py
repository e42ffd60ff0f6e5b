"""The laws of a transition: what the scan, the cut at the frontier, wrappers and gradients rely on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lds_iter.linear.arguments import check_is_transition
from lds_iter.linear.transitions import (
    AbstractTransition,
    Identity,
    ScaledIdentity,
    leaves,
    map_leaves,
    take,
)
from lds_iter.methods.spelling import spelled
from lds_iter.testing.findings import Examination, Findings, Measurements

ROUNDINGS = 64
"""Roundings allowed in each product of a row and a column, in units of the largest number of the result."""


@spelled
def check_transition(transition: AbstractTransition, like: Tensor, *, seed: int = 0, throw: bool = True) -> Findings:
    """Check the laws of a structure on one instance, of n rows. Others are made of it by another order of its rows.

    Args:
        transition: the matrices of n rows, 4 or more, with random numbers in all of them.
        like: a tensor `(n, *batch, D)` that gives shape, dtype and device; best in float64.
        seed: of the vectors that are multiplied.
        throw: raise where a law does not hold; otherwise see `Findings.passed`.

    Returns:
        What was found, law by law: print it.

    Raises:
        BrokenLaws: an AssertionError, with the findings.

    Example:
        >>> like = torch.randn(9, 2, 6, dtype=torch.float64)
        >>> li.testing.check_transition(li.Diagonal(torch.randn_like(like)), like).passed
        True
    """
    look = Examination(type(transition).__name__)
    with look.law(
        "shapes",
        "a transition is a frozen dataclass whose tensors have shape (n, *batch, ...), time first",
        "see the message",
    ):
        check_is_transition(transition, like, "`transition` must be")
    if not look.findings():
        return look.ended(throw)
    if len(like) < 4:
        look.note(f"{len(like)} row(s) are few to check by; 4 or more show mistakes in the order of rows.")
    with torch.no_grad():
        _check_products(look, transition, like, seed)
        _check_structure(look, transition, like, seed)
        _check_factors(look, transition, like, seed)
        _check_purity(look, transition, like, seed)
    return look.ended(throw)


def random_vectors(like: Tensor, seed: int, count: int) -> tuple[Tensor, ...]:
    """Random vectors for every row, `count` tensors of the shape of `like`."""
    generator = torch.Generator(like.device).manual_seed(seed)
    draw = {"generator": generator, "dtype": like.dtype, "device": like.device}
    return tuple(torch.randn(like.shape, **draw) for _ in range(count))  # pyright: ignore


def room(transition: AbstractTransition, like: Tensor) -> float:
    """The relative error allowed for the rounding of products with these matrices."""
    kinds = [like, *(leaf for leaf in leaves(transition) if leaf.is_floating_point() or leaf.is_complex())]
    return ROUNDINGS * like.shape[-1] * max(torch.finfo(kind.dtype).eps for kind in kinds)


def near(measured: Measurements, found: Tensor, expected: Tensor, what: str, part: float) -> None:
    """Compare up to a part of the largest number expected."""
    largest = expected.abs().nan_to_num(0, 0, 0).max() if expected.numel() else 0
    measured.close(found, expected, what, rtol=0, atol=part * float(largest))


def _shuffled(transition: AbstractTransition, like: Tensor, seed: int) -> AbstractTransition:
    """The same matrices at other rows."""
    order = torch.randperm(len(like), generator=torch.Generator().manual_seed(seed), device="cpu").to(like.device)
    return map_leaves(lambda leaf: leaf[order], transition)


def _check_products(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    x, y = random_vectors(like, seed, 2)
    b, c, part = _shuffled(a, like, seed), _shuffled(a, like, seed + 1), room(a, like)
    with look.law(
        "mv is linear and minds its own row",
        "A (2 x - y) = 2 A x - A y, with a result like x; the rows [i, j) of A times those of x are the rows [i, j) of "
        "the product",
        "`mv` multiplies each row of `x`, (n, *batch, D), by its own matrix and by nothing else; every tensor field "
        "leads with time.",
    ) as measured:
        measured.true(a.mv(x).shape == like.shape, lambda: f"`mv` returns {tuple(a.mv(x).shape)} for x {like.shape}")
        near(measured, a.mv(2 * x - y), 2 * a.mv(x) - a.mv(y), "A (2 x - y)", 4 * part)
        some = slice(len(like) // 3, len(like) // 3 + (len(like) + 1) // 2)
        near(measured, take(a, some).mv(x[some]), a.mv(x)[some], "some rows", part)
        full = a.dense(like)
        near(measured, full.mv(x), a.mv(x), "dense(x)", part)
    with look.law(
        "after composes, earlier first",
        "a.after(b) x = a (b x)",
        "`after(earlier)` is the product `self @ earlier`. In order of likelihood: the factors are the other way "
        "round; a term is missing; the product does not have the structure (diagonal plus low rank does not).",
    ) as measured:
        near(measured, a.after(b).mv(x), a.mv(b.mv(x)), "a.after(b)", 4 * part)
        near(measured, b.after(a).mv(x), b.mv(a.mv(x)), "b.after(a)", 4 * part)
    with look.law(
        "after is associative",
        "(c b) a = c (b a): the scan composes rows in any grouping",
        "As above; if `after` approximates, let it keep more terms.",
    ) as measured:
        near(measured, c.after(b).after(a).mv(x), c.mv(b.mv(a.mv(x))), "(c b) a", 16 * part)
        near(measured, c.after(b.after(a)).mv(x), c.mv(b.mv(a.mv(x))), "c (b a)", 16 * part)
    sizes = [sum(leaf.numel() for leaf in leaves(made)) for made in (a, a.after(b))]
    if sizes[1] > sizes[0]:
        look.note(
            f"A product of two has {sizes[1]:,} numbers where each has {sizes[0]:,}. The scan from `after` composes up "
            "to n of them, so memory grows with it: register a scan of your own with `li.register_scan`."
        )


def _check_structure(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    x, y = random_vectors(like, seed, 2)
    part = room(a, like)
    with look.law(
        "transpose is the adjoint",
        "y . (A x) = (A^T y) . x, which the gradient of a scan relies on",
        "`transpose` returns the transposed matrices in the same structure: mirrored indices, and conjugates in a "
        "complex representation.",
    ) as measured:
        scale = float((a.mv(x).abs() * y.abs()).sum(-1).max())
        measured.close((a.mv(x) * y).sum(-1), (x * a.transpose().mv(y)).sum(-1), "A^T", rtol=0, atol=part * scale)
    with look.law(
        "operations keep the structure",
        "`after` and `transpose` return the type that they are of",
        "Return your own class; a product that leaves the structure cannot be scanned.",
    ) as measured:
        for name, made in ("after", a.after(_shuffled(a, like, seed))), ("transpose", a.transpose()):
            measured.true(type(made) is type(a), f"`{name}` returns {type(made).__name__}")


def _check_factors(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    (x,), part = random_vectors(like, seed, 1), room(a, like)
    rows = torch.linspace(-1, 2, like[..., 0].numel(), dtype=like.dtype, device=like.device).view(*like.shape[:-1], 1)
    cure = (
        "`scaled(factor)` takes a number or a tensor (n, *batch, 1). Multiply each leaf whose product with a number is "
        "the matrix times it by `li.linear.times(factor, leaf)`, once: of U V^T only U."
    )
    with look.law("scaled multiplies", "c_t A_t x, for a number and for one per row", cure) as measured:
        near(measured, a.scaled(0.25).mv(x), 0.25 * a.mv(x), "a number", part)
        near(measured, a.scaled(rows).mv(x), rows * a.mv(x), "one per row", part)
        both = a.scaled(rows)
        near(measured, both.after(both).mv(x), rows * a.mv(rows * a.mv(x)), "scaled, then composed", 4 * part)
    with look.law(
        "a factor of zero gives exact zeros",
        "the cut at the frontier multiplies by 0 in a tensor, and what is inf or NaN behind it must not get through",
        "Multiply leaves by `li.linear.times(factor, leaf)`, which has exact zeros, and not by `factor * leaf`.",
    ) as measured:
        # Multiples of the identity by one number for all rows cannot be broken in some of them.
        single = isinstance(a, Identity) or (isinstance(a, ScaledIdentity) and not isinstance(a.scale, Tensor))
        if not single:
            broken = map_leaves(lambda leaf: leaf * torch.nan if leaf.is_floating_point() else leaf, a)
            zero = broken.scaled(torch.zeros_like(rows)).mv(x)
            measured.true(bool((zero == 0).all()), "0 times a matrix of NaN is not 0")


def _check_purity(look: Examination, a: AbstractTransition, like: Tensor, seed: int) -> None:
    (x,) = random_vectors(like, seed, 1)
    with look.law(
        "nothing is written into",
        "`mv`, `after`, `transpose` and `scaled` leave their arguments and the transition as they are",
        "Return new tensors: `a * b` in place of `a.mul_(b)`. Put `@dataclass(frozen=True)` before the class.",
    ) as measured:
        before, given = [leaf.clone() for leaf in leaves(a)], x.clone()
        for _ in (a.mv(x), a.after(a), a.transpose(), a.scaled(0.5), a.scaled(torch.zeros_like(x[..., :1]))):
            pass
        same = all(torch.equal(one, other) for one, other in zip(before, leaves(a), strict=True))
        measured.true(same and torch.equal(given, x), "an argument or a field has changed")
        frozen = dataclasses.is_dataclass(a) and type(a).__dataclass_params__.frozen  # pyright: ignore
        measured.true(frozen, "the dataclass is not frozen")
