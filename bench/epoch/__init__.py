"""One training epoch of a real network, ours beside torch."""
