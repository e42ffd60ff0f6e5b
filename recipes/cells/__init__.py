"""Cells from the literature as short recurrences that state the structure of their Jacobian: see `__main__`."""
