"""All laws of a method, on a small recurrence or on the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lds_iter.checks import check_f, check_inputs, check_state, checked_method
from lds_iter.errors import PerformanceWarning
from lds_iter.linear.transitions import AbstractTransition, leaves
from lds_iter.methods.base import LDSApproximation, StatefulTransition
from lds_iter.methods.spelling import spelled
from lds_iter.recurrence import Function, detached
from lds_iter.testing.findings import Examination, Findings
from lds_iter.testing.method_laws import LAWS
from lds_iter.testing.of_scans import check_scan
from lds_iter.testing.of_transitions import check_transition
from lds_iter.testing.plainly import plain_loop, random_problem, tanh_network
from lds_iter.testing.trial import Law, Trial

GAIN = 0.5
"""Of the network that methods are tried on: it forgets within a few steps, so that any good method saves iterations."""


@spelled
def check_method(
    method: LDSApproximation,
    f: Function | None = None,
    s0: Tensor | None = None,
    inputs: Any = None,
    *,
    windows: Sequence[int | None] = (None, 7),
    mates: float | None = 1e-9,
    laws: Sequence[Law] = LAWS,
    seed: int = 0,
    throw: bool = True,
) -> Findings:
    """Check a method: the laws of the loop, batches, windows, nesting and gradients, and of the structure it chooses.

    Takes seconds on 24 time steps: some 60 solves.

    Args:
        method: the method.
        f, s0, inputs: a recurrence as `solve` takes it, best in float64 with a batch of 2 or more and short; when None
            a small network of width 4, three sequences of 24 steps.
        windows: to solve with, each; None is all time steps.
        mates: how far states of a batch element may be from those solved alone, as a part of the largest number: 0 is
            to the bit; None leaves the law out, for a scan in bfloat16 that rounds with its window.
        laws: which; see `lds_iter.testing.method_laws`. A law of your own is a function of an `Examination` and a
            `Trial`.
        seed: of random numbers.
        throw: raise where a law does not hold; otherwise see `Findings.passed`.

    Returns:
        What was found, law by law: print it.

    Raises:
        BrokenLaws: an AssertionError, with the findings.
        TypeError, ValueError: for arguments that cannot work.

    Example:
        >>> print(li.testing.check_method(li.Newton()).notes[-1])
        What runs on cpu is ...
    """
    checked_method(method)
    if not isinstance(method, LDSApproximation):
        raise TypeError(f"`method` must be one method, got {type(method).__name__}, which chooses among several.")
    if f is None or s0 is None:
        if not (f is None and s0 is None and inputs is None):
            raise TypeError("`f`, `s0` and `inputs` belong together: give all of them, or none.")
        f, (s0, inputs) = tanh_network(4, GAIN), random_problem(24, (3,), 4, seed)
    check_state(s0)
    check_f(f, s0, inputs, check_inputs(inputs, s0))
    s0, inputs = s0.detach(), detached(inputs)
    look = Examination(repr(method))
    with torch.no_grad(), warnings.catch_warnings(record=True) as slow:
        warnings.simplefilter("always", PerformanceWarning)
        trial = Trial(method, f, s0, inputs, plain_loop(f, s0, inputs), tuple(windows), mates, seed)
        for law in laws:
            law(look, trial)
    for text in sorted({str(warning.message) for warning in slow}):
        look.note(text)
    found = look.findings()
    if isinstance(method, StatefulTransition) and found and laws is LAWS:
        found = _with_its_structure(found, method, trial, seed)
    return found.raise_if_failed() if throw else found


def _with_its_structure(found: Findings, method: StatefulTransition, trial: Trial, seed: int) -> Findings:
    """The same with the laws of what the method chooses, where that has numbers, and finite ones."""
    with torch.no_grad():
        lin = trial.linearization()
        transition: AbstractTransition = method.choose(lin, method.init(lin.states))[0]
    tensors = [leaf.detach() for leaf in leaves(transition)]
    if not tensors or not all(bool(leaf.isfinite().all()) for leaf in tensors):
        return found
    one = check_transition(transition, lin.residual, seed=seed, throw=False)
    return found + one + check_scan(transition, lin.residual, seed=seed, throw=False)
