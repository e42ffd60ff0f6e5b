"""A simulated pileup of nanopore reads, in the features that medaka's networks read.

A column per reference base, and one per inserted base where any read inserts. Ten numbers a column: how many reads of
the reverse strand show A, C, G, T, how many of the forward strand, then deletions, reverse and forward, all over the
depth of the reference column (`medaka.features.CountsFeatureEncoder`, `normalise="total"`, indices 0-3 and 8, 4-7 and
9). Error rates are of the order of nanopore reads with R10.4 chemistry and grow with the length of a run of equal
bases, which is what the network is there to get right; depth wanders as reads begin and end.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SUBSTITUTION, DELETION, INSERTION = 0.008, 0.008, 0.006
"""Errors per read and base outside runs of equal bases; deletions and insertions grow with a run."""
PER_RUN = 0.012
"""More deletions, and half as many insertions, for every further base of a run."""
REPEATED = 0.2
"""Bases that repeat the one before on top of those that do so by chance: genomes have more runs than coin tosses."""
DEPTH = 40
"""Reads over a column, on average."""


def pileup(columns: int, seed: int = 0) -> tuple[Tensor, list[int]]:
    """So many columns of features, `(columns, 10)`, float32, and the true base of each, 0 to 3, or -1 between bases."""
    random = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    truth: list[int] = []
    depth, base, run = np.full(2, DEPTH / 2), -1, 0
    while len(rows) < columns:
        fresh = int(random.integers(4))
        before, base = base, base if base >= 0 and random.random() < REPEATED else fresh
        run = run + 1 if base == before else 0
        depth = np.maximum(4, depth + 0.6 * random.standard_normal(2) + 0.01 * (DEPTH / 2 - depth))
        new = _columns(base, run, np.rint(depth).astype(int), random)
        rows += new
        truth += [base] + [-1] * (len(new) - 1)
    return torch.from_numpy(np.stack(rows[:columns]).astype(np.float32)), truth[:columns]


def _columns(base: int, run: int, reads: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """The column of a reference base, and those of bases that some reads insert after it."""
    shown = np.full(5, SUBSTITUTION / 4)  # A, C, G, T, deletion
    shown[4] = DELETION + PER_RUN * run
    shown[base] += 1 - shown.sum()
    added = np.full(4, 0.2 / 4 if run else 1 / 4)
    added[base] += 1 - added.sum()
    columns, left = [_column(random.multinomial(reads, shown))], reads
    while (left := random.binomial(left, INSERTION + PER_RUN / 2 * run)).any():
        columns.append(_column(np.pad(random.multinomial(left, added), ((0, 0), (0, 1)))))
    return [column / reads.sum() for column in columns]


def _column(counts: np.ndarray) -> np.ndarray:
    """Counts of A, C, G, T and deletions of the reverse and of the forward strand, `(2, 5)`, in medaka's order."""
    return np.concatenate([counts[:, :4].ravel(), counts[:, 4]])
