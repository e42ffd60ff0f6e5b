"""Clocks that do not tell the time, for decisions that go by costs and must be the same in every run."""

from dataclasses import dataclass

import lds_iter as li


class Counted:
    """A recurrence that knows what it costs: so much a call and so much a row; derivatives cost five times as much."""

    def __init__(self, f, call=1.0, row=0.001):
        self.f, self.call, self.row, self.spent = f, call, row, 0.0

    def __call__(self, s, u):
        self.spent += self.call + self.row * s.shape[0]
        return self.f(s, u)

    def linearize(self, s, u):
        self.spent += 5 * (self.call + self.row * s.shape[0])
        return li.FunctionDerivatives(self.f, s, u)


@dataclass(frozen=True)
class CountedClock:
    """Time is what the recurrence has spent."""

    f: Counted

    def __call__(self, like):
        return self.f.spent
