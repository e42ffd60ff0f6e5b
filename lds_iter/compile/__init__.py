"""Compiled iterations."""

from lds_iter.compile.compiled import Compiled as Compiled
from lds_iter.compile.compiled import cuda_graphs as cuda_graphs
