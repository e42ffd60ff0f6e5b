"""Recurrences that break the contract of `f`, at once, later, or only when they get many rows.

Each is an honest recurrence and one misdeed. Such a call must end in an error that names `f`, or, where the misdeed did
no harm, at the states of the honest one; never at others under the name of SUCCESS.

What no look can promise is left out, and said here. A value that is wrong at a single call, and right when it is asked
for again, is a value like any other (`ONCE` lists what is found even so). And of a misdeed that begins late the library
looks at one row alone, the last one: where that row happens to be right, the case counts as unseen.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import lds_iter as li
from fuzz.cases import Case, arguments, composed, limits, rows_of_loop
from fuzz.draw import Draw
from fuzz.honest import Honest
from fuzz.laws import Counted


class Boom(Exception):
    """The user's own error, raised inside of `f`."""


def honest(s: Tensor, u: Tensor) -> Tensor:
    return 0.5 * torch.sin(s) + u


def _raise(value: Tensor, s: Tensor, u: Tensor) -> Any:
    raise Boom("mine")


def _interrupt(value: Tensor, s: Tensor, u: Tensor) -> Any:
    raise KeyboardInterrupt


def _after(write: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Write somewhere after the value has been computed."""

    def deed(value: Tensor, s: Tensor, u: Tensor) -> Tensor:
        write(s, u)
        return value

    return deed


def _attention(value: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Causal, over time."""
    flat = s.reshape(len(s), -1)
    weights = (flat @ flat.T).masked_fill(torch.ones(len(s), len(s)).triu(1).bool(), -torch.inf).softmax(-1)
    return value + 0.3 * (weights @ flat - flat).view_as(value)


def _noise_of_python(like: Tensor) -> Tensor:
    return torch.tensor([random.random() for _ in range(like.numel())], dtype=like.dtype).view(like.shape)


def _branch(value: Tensor, s: Tensor, u: Tensor) -> Tensor:
    return value if len(s) == 1 or bool((u > -1).all()) else value + 0.3


ON_ROWS: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "writes into the state": _after(lambda s, u: s.mul_(0.5)),
    "writes into the state's data": _after(lambda s, u: s.data.zero_()),
    "writes into the state by numpy": _after(lambda s, u: s.detach().numpy().fill(0.3)),
    "writes into the inputs": _after(lambda s, u: u.add_(1)),
    "writes into the inputs' data": _after(lambda s, u: u.data.mul_(0.5)),
    "raises": _raise,
    "is interrupted": _interrupt,
    "draws noise": lambda value, s, u: value + 0.1 * torch.randn_like(value),
    "draws noise of Python's": lambda value, s, u: value + _noise_of_python(value),
    "drops out": lambda value, s, u: torch.nn.functional.dropout(value, 0.3),
    "doubles its precision": lambda value, s, u: value.double() if value.dtype == torch.float32 else value.float(),
    "halves its precision": lambda value, s, u: value.half(),
    "returns whole numbers": lambda value, s, u: value.long(),
    "returns complex numbers": lambda value, s, u: value + 0j,
    "returns one column": lambda value, s, u: value[..., :1],
    "returns two columns more": lambda value, s, u: torch.cat([value, value[..., :1], value[..., :1]], -1),
    "adds a dimension": lambda value, s, u: value.unsqueeze(0),
    "loses a row": lambda value, s, u: value[:-1],
    "sums over rows": lambda value, s, u: value.sum(0, keepdim=True),
    "returns None": lambda value, s, u: None,
    "returns a tuple": lambda value, s, u: (value, value),
    "returns an array": lambda value, s, u: value.detach().numpy(),
    "returns a number": lambda value, s, u: 0.5,
    "accumulates over time": lambda value, s, u: value + 0.3 * (s.cumsum(0) - s),
    "accumulates its inputs": lambda value, s, u: value + 0.3 * (u.cumsum(0) - u),
    "attends": _attention,
    "looks at the row before": lambda value, s, u: value + 0.3 * (s - s.roll(1, 0)),
    "looks at the row behind": lambda value, s, u: value + 0.3 * (s - s.roll(-1, 0)),
    "takes a mean over time": lambda value, s, u: value + 0.3 * s.mean(0, keepdim=True),
    "normalizes over time": lambda value, s, u: value - value.mean(0, keepdim=True),
    "mixes the batch": lambda value, s, u: value + 0.3 * (s.mean(-2, keepdim=True) if s[0, ..., 0].numel() > 1 else 0),
    "counts its rows": lambda value, s, u: value + 0.2 * (len(s) - 1),
    "branches on all rows": _branch,
    "is not finite": lambda value, s, u: value * torch.nan,
    "leaves torch": lambda value, s, u: torch.from_numpy(value.detach().numpy().copy()),
}


ONCE = {
    "writes into the state", "writes into the inputs", "raises", "is interrupted", "doubles its precision",
    "halves its precision", "returns whole numbers", "returns complex numbers", "returns one column",
    "returns two columns more", "adds a dimension", "loses a row", "sums over rows", "returns None", "returns a tuple",
    "returns an array", "returns a number", "is not finite",
}  # fmt: skip
"""Found at the very call."""

AT_ONCE = {"mixes the batch"}
"""Looked for before the first iteration alone."""


class Hostile:
    """The honest recurrence, which commits its misdeed at some calls.

    Args:
        deed: from the honest value, the state and the inputs to what is returned.
        when: `(calls so far, rows) -> bool`.
    """

    def __init__(self, deed: Callable[[Tensor, Tensor, Tensor], Any], when: Callable[[int, int], bool]) -> None:
        self._deed, self._when, self.calls = deed, when, 0

    def __call__(self, s: Tensor, u: Tensor) -> Any:
        self.calls += 1
        value = honest(s, u)
        return self._deed(value, s, u) if self._when(self.calls, len(s)) else value


class KeepsState:
    """Its value depends on how often it has been called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        self.calls += 1
        return honest(s, u) + 0.05 * self.calls


class StaticBuffer:
    """Returns the same memory at every call with the same number of rows, as a captured graph does."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        buffer = self._buffers.setdefault(tuple(s.shape), torch.empty_like(s, memory_format=torch.contiguous_format))
        return buffer.copy_(honest(s, u))


class LyingDerivatives:
    """Its `linearize` is of another recurrence, or nothing of the kind."""

    def __init__(self, lie: str, when: Callable[[int, int], bool]) -> None:
        self._lie, self._when, self._calls = lie, when, 0

    def __call__(self, s: Tensor, u: Tensor) -> Tensor:
        return honest(s, u)

    def linearize(self, s: Tensor, u: Tensor) -> Any:
        self._calls += 1
        value, slope = honest(s, u), 0.5 * torch.cos(s)
        if not self._when(self._calls, len(s)):
            return li.ElementwiseDerivatives(value, slope)
        if self._lie == "another value":
            return li.ElementwiseDerivatives(value + 0.2, slope)
        if self._lie == "a slope of another shape":
            return li.ElementwiseDerivatives(value, slope[..., None])
        if self._lie == "a value of another shape":
            return li.ElementwiseDerivatives(value[..., :1], slope)
        return None if self._lie == "None" else (value, slope)


@dataclass(frozen=True)
class Misdeed:
    """A call of `solve` with a hostile `f`.

    Attributes:
        case: the call.
        name: what `f` does, and when.
        make: makes the function anew, for it may keep a state.
    """

    case: Case
    name: str
    make: Callable[[], Any]

    def __str__(self) -> str:
        return f"{self.name}; {self.case}"


def hostile_case(draw: Draw, seed: int) -> Misdeed:
    batch, width, length = draw.one_of(((), (), (1,), (3,), (2, 2))), draw.integer(1, 4), draw.integer(1, 12)
    dtype = draw.one_of((torch.float32, torch.float64))
    s0, inputs = arguments(draw, batch, width, length, dtype)
    name, make = _misdeed(draw)
    options: dict[str, Any] = {"throw": True, **limits(draw, length)}
    options.pop("max_iters", None)
    if draw.happens(0.1):
        options["record"] = True
    return Misdeed(Case(seed, Honest(name, honest), composed(draw, width), s0, inputs, options), name, make)


def _misdeed(draw: Draw) -> tuple[str, Callable[[], Any]]:
    call = draw.integer(2, 9)
    moments: dict[str, Callable[[int, int], bool]] = {
        "always": lambda calls, rows: True,
        f"from call {call} on": lambda calls, rows: calls >= call,
        f"at call {call}": lambda calls, rows: calls == call,
        "with more than three rows": lambda calls, rows: rows > 3,
    }
    kind = draw.weighted({"rows": 30, "state": 1, "buffer": 1, "derivatives": 4})
    if kind == "state":
        return "counts its calls", KeepsState
    if kind == "buffer":
        return "returns one memory", StaticBuffer
    if kind == "derivatives":
        lie = draw.one_of(("another value", "a slope of another shape", "a value of another shape", "None", "a tuple"))
        del moments[f"at call {call}"]
        moment = draw.one_of(list(moments))
        return f"`linearize` gives {lie} {moment}", lambda: LyingDerivatives(lie, moments[moment])
    deed = draw.one_of(list(ON_ROWS))
    if deed not in ONCE:
        del moments[f"at call {call}"]
    moment = "always" if deed in AT_ONCE else draw.one_of(list(moments))
    return f"{deed} {moment}", lambda: Hostile(ON_ROWS[deed], moments[moment])


UNSEEN = "unseen"
"""What a case is called whose misdeed does not show in the last row."""

NAMED = (ValueError, TypeError, RuntimeError, NotImplementedError, li.SolveError)


def check_hostile(misdeed: Misdeed) -> list[str]:
    """An error that names `f`, the user's own error with a note, or the right states.

    A random `f` may pass by luck, and does not do so three times.
    """
    rounds = 3 if any(word in misdeed.name for word in ("noise", "drops out")) else 1
    found: list[str] = []
    for attempt in range(rounds):
        random.seed(attempt)
        torch.manual_seed(attempt)
        found = _check_once(misdeed)
        if not found:
            return []
    return found


def _check_once(misdeed: Misdeed) -> list[str]:
    case = misdeed.case
    want = rows_of_loop(honest, case.s0, case.inputs)
    before, f = case.inputs.clone(), Counted(misdeed.make(), len(case.inputs), case.s0[..., 0].numel())
    try:
        solution = li.solve(f, case.s0.clone(), case.inputs.clone(), case.method.method, **case.options)
    except Boom as error:
        return [] if getattr(error, "__notes__", ()) else ["note: the user's own error has no note on where it came up"]
    except KeyboardInterrupt:
        return []
    except Exception as error:
        said = "\n".join([str(error), *getattr(error, "__notes__", ())])
        if isinstance(error, NAMED) and "`f" in said:
            return []
        return [f"words: {type(error).__name__}: {said[:200]!r} does not name `f`"]
    assert torch.equal(before, case.inputs)
    # a residual of the default tolerance, and errors at most double, for the slope is 1/2
    room = 4 * (1e-5 if want.dtype == torch.float32 else 1e-10) * (1 + want.abs())
    wrong = (solution.states - want).abs() > room
    if not bool(wrong.any()) and bool(solution.states.isfinite().all()):
        return []
    found = f"SUCCESS, and off by {float((solution.states - want).abs().max()):.2g}"
    prev = torch.cat([case.s0[None], solution.states[:-1]])
    alone = torch.cat([honest(prev[:1], case.inputs[:1]), f(prev[-1:].clone(), case.inputs[-1:].clone())])
    ends = solution.states[[0, -1]]  # the look at them has a tolerance of 1 / 64
    seen = bool(((alone - ends).abs() > alone.abs().max() / 32).any())
    return [f"{'wrong' if seen else UNSEEN}: {found}"]
