"""The one loop: state, frontier, iteration, run, observers."""

from lds_iter.loop.iteration import iterate as iterate
from lds_iter.loop.run import go_on as go_on
from lds_iter.loop.run import run as run
from lds_iter.loop.state import LoopOptions as LoopOptions
from lds_iter.loop.state import LoopState as LoopState
from lds_iter.loop.state import Problem as Problem
from lds_iter.loop.state import first_state as first_state
