"""Iteration counts of the literature, measured again."""
