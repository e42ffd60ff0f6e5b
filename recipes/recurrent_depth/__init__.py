"""Transformers as recurrences over depth, and their generation over (token, depth), by the one loop of `lds_iter`."""
