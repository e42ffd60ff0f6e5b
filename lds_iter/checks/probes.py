"""Checks of `f`: a few calls before the first iteration show whether it keeps its contract.

`f` maps every row by itself, the same at every call, and changes nothing that it is given. What only a later call shows
is found in `loop/contract.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import draws, has_tangent
from lds_iter.derivatives.autodiff import Autodiff
from lds_iter.loop.contract import shares_memory
from lds_iter.loop.notes import flat_inputs, note_on_call
from lds_iter.recurrence import check_order, check_value, detached, own_linearize, take_rows

ALONE = 1 / 64
"""How far the value of a row, in parts of the largest number, may depend on its company: `f` may compute in bfloat16,
inside, where values differ by some units of 1 / 256 when a product is summed in another order."""


def check_f(f: Any, s0: Tensor, inputs: Any, length: int) -> Tensor:
    """`f`: maps rows to rows, each by itself, the same at every call. Looks at one row, then at three.

    The three rows are the second step from another state, the first step, and the second step from the state of the
    first row, but for the first batch element. The value of the middle one must not depend on the company; the last one
    must agree with the first in all other batch elements.

    Returns:
        The value of the first step, `(1, *batch, D)`, with the gradient or tangent that values of `f` carry here.
    """
    if isinstance(f, type) or not callable(f):
        raise TypeError(f"`f` must be a callable f(s, u), got {f!r}.")
    check_order(f)
    random = _random_state(s0)
    one: Any = _called(f, s0.unsqueeze(0), take_rows(inputs, 0, 1))
    _check_value(one, s0, 1, inputs)
    with torch.no_grad():
        once = one.detach().clone()
        drew = not torch.equal(random, (random := _random_state(s0)))
        second = min(1, length - 1)
        other = _nearby(s0.detach())
        states = torch.stack([other, s0.detach(), _with_another_first_element(other)])
        rows = torch.tensor([second, 0, second], device=s0.device)
        beside = pytree.tree_map(lambda leaf: _picked(leaf, rows), inputs)
        three: Any = _called(f, states, beside)
        _check_value(three, s0, 3, inputs)
        drew = drew and not torch.equal(random, _random_state(s0)) and draws(lambda: _called(f, states, beside))
        _check_same_row(one, once, three, drew, flat_inputs(states, inputs))
        _check_batch(three, s0)
        own = own_linearize(f)
        if own is not None and not isinstance(f, Autodiff):  # which evaluates `f` as it is
            _check_linearize(own, once, s0, take_rows(inputs, 0, 1))
    return one


def last_inputs(inputs: Any, length: int) -> Any:
    """A copy of the inputs of the last step, for `check_ends`."""
    rows = take_rows(detached(inputs), length - 1, length)
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, rows)


def check_ends(
    f: Any, trajectory: Tensor, first: Tensor, last: Any, solved: Tensor, s0: Tensor, rtol: float, atol: float
) -> None:
    """The solution is one of `f` by itself: its first and its last step, evaluated alone, give the states found.

    What `f` does only with many rows, or from some call on, the look before the first iteration cannot see. It shows at
    the last row, which had most rows for company in the loop.

    Args:
        f: the recurrence.
        trajectory: `s0` and the states, `(T + 1, *batch, D)`.
        first: the value of the first step before the solve, `(1, *batch, D)`.
        last: the inputs of the last step, as they were before the solve.
        solved: the sequences to look at, bool, `(*batch)`.
        s0: as given.
        rtol, atol: to which the states have been solved.

    Raises:
        ValueError: when they do not.
    """
    if not bool(solved.any()):
        return
    prev = trajectory[-2:-1]
    again, drew = first, False
    if len(trajectory) > 2:
        with torch.no_grad():
            random = _random_state(s0)
            again = check_value(_called(f, prev, last), prev)
            drew = not torch.equal(random, _random_state(s0)) and draws(lambda: _called(f, prev, last))
    alone = torch.cat([first, again])[:, solved]
    found = torch.stack([trajectory[1], trajectory[-1]])[:, solved]
    room = ALONE * alone.abs().max() + rtol * alone.abs() + atol
    same = bool(((alone - found).abs() <= room).all()) and torch.equal(trajectory[0], s0)
    if same and not drew:
        return
    what = "draws random numbers" if same else "alone gives other values for the first or last step than in company"
    raise ValueError(
        f"`f` {what} (difference {float((alone - found).abs().max()):.2g}), so what was solved is not its recurrence. "
        "In order of likelihood: "
        "it mixes time steps when there are many (attention, `cumsum`, a mean over the first dimension); it is random; "
        "it counts its calls or keeps a state; it writes into its arguments; its `linearize` gives another value. `f` "
        "must map every row by itself, the same at every call."
    )


def _picked(leaf: Any, rows: Tensor) -> Any:
    return leaf.detach().index_select(0, rows) if isinstance(leaf, Tensor) else leaf


def _random_state(like: Tensor) -> Tensor:
    """The state of the generator that random functions draw from on this device."""
    return torch.cuda.get_rng_state(like.device) if like.is_cuda else torch.get_rng_state()


def _nearby(s: Tensor) -> Tensor:
    """States near `s`, a tenth of their size away, each coordinate by another distance."""
    steps = torch.linspace(0.05, 0.1, s.shape[-1], dtype=s.dtype, device=s.device)
    return s + steps * (1 + s.abs())


def _with_another_first_element(s: Tensor) -> Tensor:
    """`s` with another state of the first batch element; all of it where there is no batch."""
    moved = s.clone()
    first = moved[(0,) * (s.ndim - 1)]
    first += 0.1 * (1 + first.abs())
    return moved


def _check_same_row(one: Tensor, once: Tensor, three: Tensor, drew: bool, hint: str) -> None:
    """The first step gave the same value alone and between others."""
    if shares_memory(one, three):
        raise ValueError(
            "`f` returns the same memory at every call, so a later call changes what an earlier one returned (a "
            "captured graph does, and `out=`). Return `value.clone()`."
        )
    same = _nearly(three[1], once[0])
    if same and not drew:
        return
    difference = float((once[0] - three[1]).abs().max())
    what = "draws random numbers" if same else f"gave different values for the same row (difference {difference:.2g})"
    raise ValueError(
        f"`f` {what}. In order of likelihood: it is random (dropout: call `.eval()`; noise: draw it once and "
        "pass it in `inputs`); it mixes time steps (batch norm in training mode, `cumsum` or attention over the first "
        f"dimension); it keeps a state between calls. `f` must map every row by itself.{hint}"
    )


def _nearly(value: Tensor, before: Tensor) -> bool:
    """Whether two evaluations of the same rows agree, to a thousandth of the largest number; true where not finite.

    They differ by rounding alone where `f` keeps its contract, which in half precision, inside of `f`, is not little.
    """
    if not bool(before.isfinite().all()):
        return True
    return bool(((value - before).abs() <= 1e-3 * (before.abs() + before.abs().max())).all())


def _check_batch(three: Tensor, s0: Tensor) -> None:
    """Other batch elements do not feel a change of the first one."""
    if s0[..., 0].numel() == 1:
        return
    before, after = (row.reshape(-1, s0.shape[-1])[1:] for row in (three[0], three[2]))
    if not _nearly(after, before):
        raise ValueError(
            "`f` mixes the elements of a batch: another state of the first one changes the values of others by up to "
            f"{float((before - after).abs().max()):.2g}. In order of likelihood: a mean, a norm or attention over a "
            "batch dimension; a reshape that moves D into the batch. If they belong together, they are one state: type "
            "`s0.flatten()`, or li.ravel, and unflatten inside `f`."
        )


def _check_linearize(own: Any, once: Tensor, s0: Tensor, inputs: Any) -> None:
    """The value of a recurrence's own linearization is that of the recurrence."""
    derivatives: Any = _called(own, s0.detach().unsqueeze(0), detached(inputs))
    value = getattr(derivatives, "value", None)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`linearize` of `f` must return li.AbstractDerivatives with a `value`, got {type(derivatives).__name__}."
        )
    if value.shape != once.shape or not _nearly(value, once):
        raise ValueError(
            "`f.linearize(s, u).value` is not `f(s, u)`: the solve would be that of another recurrence. Compute the "
            "value in both by the same function."
        )


def check_transforms(one: Tensor, s0: Tensor, inputs: Any) -> None:
    """No forward-mode derivative is being taken, for the loop would not carry it.

    Args:
        one: a value of `f`.
        s0, inputs: see `solve`.
    """
    given = [one, s0, *(leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor))]
    if any(has_tangent(leaf) for leaf in given):
        raise NotImplementedError(
            "`solve` has no tangent for dual tensors of torch.autograd.forward_ad, which do not nest with its own "
            "derivatives. `solve` works under torch.func.jvp and jacfwd, and in reverse mode with `.backward()` and "
            "torch.autograd.grad; li.sequential(f, s0, inputs) works under every transform, and so does the loop."
        )


def _called(f: Any, s: Tensor, inputs: Any) -> Any:
    """`f(s, inputs)`, on copies; what goes wrong inside it gets a note on how it was called."""
    s, inputs = pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, (s, inputs))
    before = pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, (s, inputs))
    try:
        value = f(s, inputs)
    except Exception as error:
        note_on_call(error, s, inputs)
        raise
    if not _equal((s, inputs), before):
        raise ValueError(
            "`f` changes its arguments in place (`s.mul_(...)`, `u += ...`), which are read again. Write "
            "`s = s * ...`, or start with `s = s.clone()`."
        )
    return value


def _equal(given: Any, before: Any) -> bool:
    """Whether these pytrees hold the same numbers, NaN equal to NaN."""
    pairs = zip(pytree.tree_leaves(given), pytree.tree_leaves(before), strict=True)
    return all(
        torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        if one.is_floating_point()
        else torch.equal(one, other)
        for one, other in pairs
        if isinstance(one, Tensor)
    )


def _missing_batch(value: Tensor, s0: Tensor) -> str:
    """A hint for a state without the batch of the inputs: it broadcasts to what came back."""
    batched = value.shape[1:]
    if value.ndim > s0.ndim + 1 and batched[-s0.ndim :] == s0.shape:
        return f" `s0` seems to lack the batch of `inputs`: type `s0.expand{tuple(batched)}`."
    return ""


def _check_value(value: Any, s0: Tensor, rows: int, inputs: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"`f` must return a tensor, got {type(value).__name__}. For a structured state use li.ravel inside `f`."
        )
    expected = (rows, *s0.shape)
    if tuple(value.shape) != expected:
        raise ValueError(
            f"`f` must return the shape of its state: given states {expected} it returned {tuple(value.shape)}. Time "
            "comes first and D last; for a module that takes (N, D) type `li.fold(module)`."
            + _missing_batch(value, s0)
            + flat_inputs(s0.unsqueeze(0), inputs)
        )
    if value.dtype != s0.dtype or value.device != s0.device:
        raise TypeError(
            f"`f` must return {s0.dtype} on {s0.device} like `s0`, got {value.dtype} on {value.device}. "
            "Convert `s0`, the module or its inputs with `.to(...)`; under autocast let `f` return `.float()`, so that "
            "residuals stay in full precision."
        )
