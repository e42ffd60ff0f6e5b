"""Kernels in C++ for tensors in main memory, compiled on first use; without a compiler plain torch operations serve."""

from lds_iter.kernels.cpu import low_rank as low_rank
from lds_iter.kernels.cpu import scans as scans
from lds_iter.kernels.cpu.build import status as status
