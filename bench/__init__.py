"""Benchmarks: problems from the literature, and what the library makes of them."""
