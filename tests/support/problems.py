"""Random problems of the contract suites, and how close answers must be."""

import torch
from hypothesis import strategies as st

BATCHES = st.sampled_from([(), (1,), (3,), (2, 2)])
# float64 at a residual of 1e-12 or less, and short trajectories that hardly expand: errors stay below this.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
TIGHT = {"rtol": 1e-12, "atol": 1e-12}
EXACT = {"rtol": 0.0, "atol": 0.0}


def problem(length, batch=(), width=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    s0 = torch.randn(*batch, width, generator=generator, dtype=dtype)
    return s0, torch.randn(length, *batch, width, generator=generator, dtype=dtype)
