"""Predictability decides what can be parallelized: the evidence of the paper, reproduced."""
