"""Kernels for CUDA devices, in Triton, as custom operations. Triton is imported when one first runs."""

from lds_iter.kernels.triton import cells as cells
from lds_iter.kernels.triton import scans as scans
