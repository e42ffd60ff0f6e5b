"""Recurrences of `torch.nn` that know their own derivatives."""

from lds_iter.nn.gru import GRURecurrence as GRURecurrence
from lds_iter.nn.lstm import LSTMRecurrence as LSTMRecurrence
from lds_iter.nn.rnn import RNNRecurrence as RNNRecurrence
