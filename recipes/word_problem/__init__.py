"""The word problem of S5 and A5, learned on sequences of 10,000: see `__main__`."""
