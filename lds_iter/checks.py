"""Checks of the arguments of `solve`. Each says what was expected, what came, and what to type instead."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lds_iter._torch import draws, has_tangent
from lds_iter.gradients.adjoints import AbstractAdjoint
from lds_iter.loop.contract import shares_memory
from lds_iter.loop.notes import flat_inputs, note_on_call
from lds_iter.loop.state import AbstractStrategy
from lds_iter.methods.arguments import check_instance
from lds_iter.methods.base import LDSApproximation, StatefulTransition
from lds_iter.recurrence import check_order, check_value, detached, own_linearize, take_rows

ALONE = 1 / 64
"""How far the value of a row, in parts of the largest number, may depend on its company: `f` may compute in bfloat16,
inside, where values differ by some units of 1 / 256 when a product is summed in another order."""


def check_state(s0: Any) -> None:
    """`s0`: a finite float32 or float64 tensor `(*batch, D)`."""
    if not isinstance(s0, Tensor):
        raise TypeError(
            f"`s0` must be a tensor of shape (*batch, D), got {type(s0).__name__}.{_as_tensor('s0', s0)} For a "
            "structured state such as (h, c), type `s0, unravel = li.ravel(state)` and unravel it inside `f`."
        )
    check_layout("s0", s0)
    if s0.is_meta:
        raise TypeError("`s0` is on the device meta, which holds no numbers; a solve looks at them.")
    if s0.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"`s0` is {s0.dtype}: residuals need at least float32. Type `s0.float()` and cast inside `f`.")
    if s0.is_complex():
        raise TypeError(
            f"`s0` must be float32 or float64, got {s0.dtype}. Type `torch.view_as_real(s0).flatten(-2)`, and inside "
            "`f` `torch.view_as_complex(s.unflatten(-1, (-1, 2)))` and back."
        )
    if s0.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"`s0` must be float32 or float64, got {s0.dtype}. Fixed-point iteration needs states that can move a "
            "little: type `s0.float()`, or run a recurrence on integers in a plain loop."
        )
    if s0.ndim == 0 or s0.numel() == 0:
        raise ValueError(
            f"`s0` must have shape (*batch, D) with nothing empty, got {tuple(s0.shape)}. For a scalar state type "
            "`s0.reshape(1)`."
        )
    if not bool(s0.isfinite().all()):
        raise ValueError("`s0` contains inf or NaN.")


def check_layout(name: str, tensor: Tensor) -> None:
    """A dense tensor that holds numbers."""
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(
            f"`{name}` must be an ordinary dense tensor, got {_kind(tensor)}. Type `{name}.to_dense()`, for quantized "
            f"ones `{name}.dequantize()`, or pad nested ones to one length."
        )


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "a nested tensor"
    return "a quantized tensor" if tensor.is_quantized else f"one of layout {tensor.layout}"


def check_inputs(inputs: Any, s0: Tensor, argument: str = "inputs") -> int:
    """`inputs`: a pytree of tensors on the device of `s0` that lead with the same T >= 1, finite; returns T."""
    named = [
        (_name(argument, path), leaf) for path, leaf in pytree.tree_flatten_with_path(inputs)[0] if leaf is not None
    ]
    for name, leaf in named:
        if not isinstance(leaf, Tensor):
            hint = _as_tensor(argument, inputs)
            raise TypeError(
                f"`{name}` must be a tensor that leads with T, got {type(leaf).__name__}.{hint} What does not change "
                "over time belongs into `f`, as a closure."
            )
        check_layout(name, leaf)
        if leaf.ndim == 0:
            raise ValueError(f"`{name}` must lead with T, got a tensor without dimensions.")
        if leaf.device != s0.device:
            raise ValueError(f"`{name}` is on {leaf.device} but `s0` on {s0.device}: move one with `.to(...)`.")
    lengths = {name: leaf.shape[0] for name, leaf in named}
    if not lengths:
        raise ValueError(
            f"`{argument}` has no tensor, so T is unknown. For a recurrence without inputs pass torch.arange(T)."
        )
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"`{argument}` must all lead with the same T, got {lengths}. Put time first: `x.transpose(0, 1)`."
        )
    length = next(iter(lengths.values()))
    if length == 0:
        raise ValueError(f"`{argument}` has T = 0 time steps; there is nothing to evaluate.")
    for name, leaf in named:
        _check_finite(name, leaf)
    return length


def _as_tensor(name: str, value: Any) -> str:
    """What to type in place of an array, a number, a range or a list of numbers; empty for anything else."""
    if isinstance(value, int | range) and not isinstance(value, bool) and name in ("inputs", "xs"):
        return " For a recurrence without inputs type `torch.arange(T)`."
    first = value
    while isinstance(first, list | tuple) and first:
        first = first[0]
    if (hasattr(first, "__array__") and not isinstance(first, Tensor)) or isinstance(first, int | float):
        return f" Type `torch.as_tensor({name}, dtype=torch.float32)`."
    return ""


def _check_finite(name: str, leaf: Tensor) -> None:
    if not leaf.is_floating_point() or leaf.element_size() == 1 or bool(leaf.sum().isfinite()):  # no sums of float8
        return  # the sum is one cheap pass; it can only miss the mark towards the exact test below
    bad = ~leaf.isfinite().reshape(leaf.shape[0], -1).all(1)
    if bool(bad.any()):
        first = int(bad.to(torch.uint8).argmax())
        raise ValueError(f"`{name}` contains inf or NaN in {int(bad.sum())} time step(s), the first at t = {first}.")


def _name(argument: str, path: tuple[Any, ...]) -> str:
    return argument + "".join(str(key) for key in path)


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
        if own is not None:
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


def check_tolerance(name: str, value: Any, dtype: torch.dtype) -> float:
    """`rtol`, `atol`: a finite number, 0 or more, that the states' dtype can hold."""
    value = (1e-5 if dtype == torch.float32 else 1e-10) if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= torch.finfo(dtype).max:
        raise ValueError(f"`{name}` must be a finite number, 0 or more, got {value!r}.")
    return float(value)


def check_flags(**flags: Any) -> None:
    """`record`, `progress`, `throw`: True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{name}` must be True or False, got {type(value).__name__}.")


def check_callable(name: str, value: Any) -> None:
    """`callback`, `stop`: a function of a `Progress`, or None."""
    if value is not None and (isinstance(value, type) or not callable(value)):
        raise TypeError(f"`{name}` must be a function of a li.Progress, or None, got {value!r}.")


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


def check_adjoint(adjoint: Any) -> AbstractAdjoint:
    """`adjoint`: an instance."""
    check_instance("adjoint", adjoint, AbstractAdjoint, "li.Implicit() or li.Unroll()")
    return adjoint


def check_guess(guess: Any, s0: Tensor, length: int) -> None:
    """`guess`: a finite tensor `(T, *batch, D)` like the states."""
    if not isinstance(guess, Tensor):
        raise TypeError(
            f"`guess` must be a tensor (T, *batch, D) or a callable that returns one, got {type(guess).__name__}."
        )
    check_layout("guess", guess)
    expected = (length, *s0.shape)
    if tuple(guess.shape) != expected:
        raise ValueError(f"`guess` must have the shape of the states, {expected}, got {tuple(guess.shape)}.")
    if guess.dtype != s0.dtype or guess.device != s0.device:
        raise TypeError(f"`guess` must be {s0.dtype} on {s0.device}, got {guess.dtype} on {guess.device}.")
    if not bool(guess.sum().isfinite()) and not bool(guess.isfinite().all()):
        raise ValueError("`guess` contains inf or NaN. Leave it out to start from `s0` repeated.")


def checked_method(method: Any, *, transition: bool = False) -> Any:
    """`method`: an instance of the right kind."""
    kind = StatefulTransition if transition else LDSApproximation
    if transition or not isinstance(method, AbstractStrategy):
        check_instance("method", method, kind, "li.Newton()")
    return method


def check_numbers(length: int, **numbers: int | None) -> dict[str, int]:
    """Whole numbers that mean T when None; `max_iters=0`, which only evaluates the guess, makes sense."""
    checked = {}
    for name, number in numbers.items():
        least = 1 if name == "window" else 0
        whole = length if number is None else _whole(number)
        if whole is None or whole < least:
            raise ValueError(f"`{name}` must be a whole number, {least} or more, or None for T; got {number!r}.")
        checked[name] = whole
    return checked


def _whole(number: Any) -> int | None:
    """A whole number of any kind as an int (numpy's too); None where it is none."""
    if isinstance(number, bool) or not hasattr(number, "__index__") or isinstance(number, Tensor):
        return None
    return operator.index(number)
