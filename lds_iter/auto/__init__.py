"""The strategy that chooses methods while it solves: `Auto`, and what it measures and decides with."""

from lds_iter.auto.arms import Candidate as Candidate
from lds_iter.auto.auto import CANDIDATES as CANDIDATES
from lds_iter.auto.auto import Auto as Auto
from lds_iter.auto.clock import AbstractClock as AbstractClock
from lds_iter.auto.clock import ProcessClock as ProcessClock
from lds_iter.auto.clock import WallClock as WallClock
from lds_iter.auto.costs import Costs as Costs
from lds_iter.auto.costs import CostTable as CostTable
from lds_iter.auto.memory import Memory as Memory
