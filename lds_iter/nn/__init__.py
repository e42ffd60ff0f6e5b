"""Recurrences of `torch.nn` that know their own derivatives."""

from lds_iter.nn.gru import GRURecurrence as GRURecurrence
