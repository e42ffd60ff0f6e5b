"""Linear dynamical systems: structured transitions and the scans that solve them."""

from lds_iter.scan.transitions import leaves as leaves
from lds_iter.scan.transitions import map_leaves as map_leaves
from lds_iter.scan.transitions import take as take
from lds_iter.scan.transitions import times as times
