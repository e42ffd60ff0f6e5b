"""The compiled kernels of the CPU against the path without them."""
