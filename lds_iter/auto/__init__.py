"""`Auto`, the strategy that chooses a method while it solves: a race of contenders, each with a deadline."""

from lds_iter.auto.auto import CONTENDERS as CONTENDERS
from lds_iter.auto.auto import Auto as Auto
from lds_iter.auto.auto import wall_clock as wall_clock
