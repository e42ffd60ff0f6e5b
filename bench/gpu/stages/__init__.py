"""The stages of a visit, in the order of their value."""

from __future__ import annotations

from bench.gpu.stages import correctness, diffusion, guide, networks, scans, sine
from bench.gpu.stages.base import Rows, Stage, Where

STAGES = (
    Stage("correctness", "Are kernels, layers and solves right on the device?", 130, correctness.rows, 8),
    Stage("guide", "Do the examples of the README and of the guide run on the device?", 50, guide.rows, 8),
    Stage("gru", "From which length on is a GRU in parallel faster than cuDNN's?", 110, networks.against_cudnn),
    Stage("deer", "DEER's table: a GRU with D = 1 and batch 2 against a loop over the steps", 30, networks.deer),
    Stage("sine", "The sine-generating GRU at the edge of stability", 45, sine.rows),
    Stage("scans", "How near to a copy of the same bytes is a scan?", 70, scans.rows),
    Stage("training", "A training step of the size of EigenWorms", 40, networks.training),
    Stage("diffusion", "All steps of a diffusion model at once: rounds and time", 35, diffusion.rows),
    Stage("memory", "How much memory do a million steps take?", 30, networks.memory),
)
"""Seconds are of a visit of nine minutes."""


def rows_of(stage: str, where: Where) -> Rows:
    """The rows of a stage by its name."""
    return next(one for one in STAGES if one.name == stage).rows(where)
