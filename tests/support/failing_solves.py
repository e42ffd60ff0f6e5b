"""Solves that go wrong on one rank."""

import os
import signal

import torch

import lds_iter as li


class Failing:
    """A contracting recurrence that does something at its `last` call on one rank; see `ACTIONS`."""

    def __init__(self, action, last):
        self.action, self.left = action, last

    def __call__(self, s, u):
        self.left -= 1
        if self.left == 0:
            self.action()
        return 0.5 * s + u

    def linearize(self, s, u):
        value = self(s, u)
        return li.StructuredDerivatives(value, li.Diagonal(torch.full_like(value, 0.5)))


def raise_error():
    raise ZeroDivisionError("mine")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


ACTIONS = {"raises": raise_error, "dies": die}


def failing(group, action, culprit, calls):
    """A solve whose `f` fails on one rank; what each rank is told."""
    mine = group.rank() == culprit
    f = Failing(ACTIONS[action] if mine else raise_error, calls if mine else -1)
    return told(lambda: li.solve(f, torch.zeros(2), torch.ones(20, 2), li.Jacobi(), mesh=group))


def failing_backward(group, culprit):
    """The same in the backward pass."""
    f = Failing(raise_error, -1)
    s0 = torch.zeros(2, requires_grad=True)
    states = li.solve(f, s0, torch.ones(20, 2), mesh=group).states
    f.left = 1 if group.rank() == culprit else -1
    return told(lambda: states.sum().backward())


def told(solve):
    """The name and words of the error that a solve ends with."""
    try:
        solve()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


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
