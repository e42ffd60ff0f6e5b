"""Linear dynamical systems: structured transitions and the scans that solve them."""

from lds_iter.linear.transitions import leaves as leaves
from lds_iter.linear.transitions import map_leaves as map_leaves
from lds_iter.linear.transitions import take as take
from lds_iter.linear.transitions import times as times
