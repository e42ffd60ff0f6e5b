"""Solves that go wrong on one rank."""

import os
import signal
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

import lds_iter as li

PATIENCE_SECONDS = 2.0
"""The timeout of a group in which a rank does not come. Connections are made within it, too."""

LATE = ("hangs", "backward hangs", "no backward", "passes")
"""Cases that end by it."""


class Failing:
    """A contracting recurrence that does something at its `last` call on one rank; see `ACTIONS`."""

    def __init__(self, action, last):
        self.action, self.left = action, last

    def __call__(self, s, u):
        self.left -= 1
        if self.left == 0:
            self.action()
        return 0.5 * s + pytree.tree_leaves(u)[0]

    def linearize(self, s, u):
        value = self(s, u)
        return li.StructuredDerivatives(value, li.Diagonal(torch.full_like(value, 0.5)))


@dataclass(frozen=True)
class Halving(li.AbstractTransition):
    """A multiple of each number, as `Diagonal`, in a structure of its own."""

    factors: torch.Tensor

    def mv(self, x):
        return self.factors * x

    def after(self, earlier):
        return Halving(self.factors * earlier.factors)

    def transpose(self):
        return self

    def scaled(self, factor):
        return Halving(factor * self.factors)


@dataclass(frozen=True)
class Adaptive(li.StatefulTransition):
    """A method that chooses by its own rows: from the third iteration on, another transition in the later ones."""

    then: str

    def init(self, guess):
        return guess.new_zeros(guess.shape[1:-1])

    def choose(self, lin, carry):
        name = self.then if lin.rows.start > 0 and bool((carry >= 2).all()) else "diagonal"
        return TRANSITIONS[name](lin), lin.keep(carry + 1, carry)


TRANSITIONS = {
    "diagonal": lambda lin: li.Diagonal(torch.full_like(lin.prev, 0.1)),
    "dense": lambda lin: li.Dense(torch.eye(lin.prev.shape[-1]).expand(*lin.prev.shape, -1) * 0.1),
    "own": lambda lin: Halving(torch.full_like(lin.prev, 0.1)),
    "looks": lambda lin: li.Diagonal(lin.over_time.largest(lin.prev).clamp(max=0.1).expand(lin.prev.shape)),
    "passes": lambda lin: li.Diagonal(lin.over_time.previous(lin.prev, lin.prev[:1]).clamp(max=0.1)),
    "narrow": lambda lin: li.Diagonal(torch.full_like(lin.prev[..., :1], 0.1)),
}
"""By name; the first three are of one method. "looks" and "passes" send messages that others do not expect."""


def raise_error():
    raise ZeroDivisionError("mine")


def interrupt():
    raise KeyboardInterrupt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    time.sleep(2.5 * PATIENCE_SECONDS)


ACTIONS = {"raises": raise_error, "dies": die}


def failing(group, action, culprit, calls):
    """A solve whose `f` fails on one rank; what each rank is told."""
    return told(lambda: solve(group, ACTIONS[action], culprit, calls))


def failing_at_once(group, culprit):
    """The same, on a rank that leaves at once with its error, and with the store if it keeps one."""
    answer = failing(group, "raises", culprit, 5)
    if group.rank() == culprit:
        dist.destroy_process_group()
    return answer


def solve(group, action, culprit, calls, **options):
    """A solve of 20 steps a rank, in whose `calls`-th call of `f` one rank acts."""
    f = Failing(action, calls if group.rank() == culprit else -1)
    return li.solve(f, torch.zeros(2), torch.ones(20, 2), li.Jacobi(), mesh=group, **options)


def failing_backward(group, action, culprit):
    """A solve, in whose backward pass one rank acts at the first call of `f`."""
    f = Failing(raise_error, -1)
    s0 = torch.zeros(2, requires_grad=True)
    states = li.solve(f, s0, torch.ones(20, 2), mesh=group).states
    f.action, f.left = action, 1 if group.rank() == culprit else -1
    states.sum().backward()


def without_backward(group, culprit, instead):
    """A solve, after which one rank does something else than its backward pass."""
    f, s0 = Failing(raise_error, -1), torch.zeros(2, requires_grad=True)
    states = li.solve(f, s0, torch.ones(20, 2), mesh=group).states
    if group.rank() == culprit:
        instead()
    else:
        states.sum().backward()


def told(solve):
    """The name and words of the error that a solve ends with."""
    try:
        solve()
    except (Exception, KeyboardInterrupt) as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def several_ends(group, culprit, names):
    """Faults after which a process group is of no further use, each in a group of its own."""
    ones, zeros = torch.ones(20, 2), torch.zeros(2)

    def raising(progress):
        if int(progress.iterations.max()) == 3 and group.rank() == culprit:
            raise ZeroDivisionError("mine")

    def looking(progress):
        if int(progress.iterations.max()) == 3 and group.rank() == culprit:
            progress.states  # noqa: B018

    def adaptive(fresh, then):
        li.solve(Failing(raise_error, -1), zeros, ones, Adaptive(then), mesh=fresh)

    def again(fresh):
        told(lambda: solve(fresh, raise_error, culprit, 5))
        solve(fresh, raise_error, culprit, -1)

    cases = {
        "raises": lambda fresh: solve(fresh, raise_error, culprit, 5),
        "raises in a callback": lambda fresh: solve(fresh, raise_error, -1, -1, callback=raising),
        "looks in a callback": lambda fresh: solve(fresh, raise_error, -1, -1, callback=looking),
        "interrupt": lambda fresh: solve(fresh, interrupt, culprit, 5),
        "interrupt at first": lambda fresh: solve(fresh, interrupt, culprit, 1),
        "hangs": lambda fresh: solve(fresh, hang, culprit, 5),
        "backward raises": lambda fresh: failing_backward(fresh, raise_error, culprit),
        "backward is interrupted": lambda fresh: failing_backward(fresh, interrupt, culprit),
        "backward hangs": lambda fresh: failing_backward(fresh, hang, culprit),
        "no backward": lambda fresh: without_backward(fresh, culprit, hang),
        "solve for backward": lambda fresh: without_backward(fresh, culprit, lambda: solve(fresh, None, None, -1)),
        "again": again,
        **{then: lambda fresh, then=then: adaptive(fresh, then) for then in TRANSITIONS},
    }
    found = {}
    for name in names or cases:
        dist.barrier()  # a rank that hangs comes late, and connections are made within the timeout
        fresh = dist.new_group(timeout=timedelta(seconds=PATIENCE_SECONDS if name in LATE else 60))
        found[name] = told(lambda fresh=fresh, name=name: cases[name](fresh))
    return found


def several_faults(group):
    """Arguments that cannot work, one after the other: all ranks stay in step, so that one start serves for all."""
    rank = group.rank()
    last = rank == group.size() - 1
    s0, inputs = torch.zeros(2), torch.ones(5, 2)
    decay = Failing(raise_error, -1)
    nan = inputs.clone()
    nan[2] = torch.nan

    def tried(s0=s0, inputs=inputs, method=None, **options):
        return told(lambda: li.solve(decay, s0, inputs, method or li.Jacobi(), mesh=group, **options))

    found = {
        "method": tried(method=li.Picard() if last else li.Jacobi()),
        "dtype": tried(
            torch.zeros(2, dtype=torch.float64 if last else torch.float32), inputs.double() if last else inputs
        ),
        "width": tried(torch.zeros(3 if last else 2), torch.ones(5, 3 if last else 2)),
        "window": tried(window=3 if last else None),
        "rtol": tried(rtol=1e-3 if last else None),
        "record": tried(record=last),
        "atol": tried(atol=1e-3 if last else None),
        "limit": tried(max_iters=3 if last else None),
        "adjoint": tried(adjoint=li.Implicit(li.Jacobi()) if last else None),
        "batch": tried(torch.zeros(3 if last else 4, 2), torch.ones(5, 3 if last else 4, 2)),
        "broadcast": tried(torch.zeros(3, 2), torch.ones(5, 3 if last else 1, 2)),
        "precision": tried(inputs=inputs.half() if last else inputs),
        "tree": tried(inputs=(inputs,) if last else inputs),
        "nan": tried(inputs=nan if last else inputs),
        "guess": tried(guess=torch.zeros(4 if last else 5, 2)),
        "nothing to do": tried(inputs=inputs[:0]),
        "auto": tried(method=li.Auto()),
        "compiled": told(lambda: li.solve(li.Compiled(decay), s0, inputs, mesh=group)),
        "unroll": tried(adjoint=li.Unroll()),
        "coarse": tried(guess=li.Coarse(2, decay)),
        "max_iters": tried(max_iters=1),
        "no mesh": told(lambda: li.solve(decay, s0, inputs, mesh="time")),
    }
    found["after all"] = tried()
    return found
