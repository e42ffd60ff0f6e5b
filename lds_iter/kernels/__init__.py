"""Kernels for one kind of device each. Every kernel names the reference that it is tested against."""

from lds_iter.kernels import cpu as cpu
from lds_iter.kernels import triton as triton
