"""Ranks that come late to a solve, because they compile kernels or because they hang."""

import time

import torch
from failing_solves import told

import lds_iter as li
from lds_iter.checks import sharing


def late(group, seconds, compiles):
    """A solve whose last rank comes late; what it ends with."""
    is_late = group.rank() == group.size() - 1
    if is_late and compiles:
        sharing.load_kernels = lambda *_: time.sleep(seconds)
    elif is_late:
        time.sleep(seconds)
    return told(lambda: li.solve(lambda s, u: 0.5 * s + u, torch.zeros(2), torch.ones(4, 2), li.Jacobi(), mesh=group))
