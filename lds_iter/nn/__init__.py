"""Recurrent networks solved in parallel over time: drop-in layers, an adapter for cells, and their recurrences."""

from lds_iter.nn._plan import Plan as Plan
from lds_iter.nn._plan import Route as Route
from lds_iter.nn.gru import GRURecurrence as GRURecurrence
from lds_iter.nn.layers import GRU as GRU
from lds_iter.nn.layers import LSTM as LSTM
from lds_iter.nn.layers import RNN as RNN
from lds_iter.nn.layers import ParallelLayers as ParallelLayers
from lds_iter.nn.lstm import LSTMRecurrence as LSTMRecurrence
from lds_iter.nn.options import SolveOptions as SolveOptions
from lds_iter.nn.parallelize import parallelize as parallelize
from lds_iter.nn.parallelize import sequentialize as sequentialize
from lds_iter.nn.recurrent import Recurrent as Recurrent
from lds_iter.nn.rnn import RNNRecurrence as RNNRecurrence
from lds_iter.nn.suited import fixed_method as fixed_method
from lds_iter.nn.suited import shared_method as shared_method
from lds_iter.nn.warm_start import WarmStart as WarmStart
