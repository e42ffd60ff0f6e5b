"""A diagonal plus low rank against the same matrices in full: see `__main__`."""
