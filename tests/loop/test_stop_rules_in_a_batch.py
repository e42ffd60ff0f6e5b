"""A rule that stops a sequence stops it where it would stop alone, though it waits for slower ones in a window."""

from dataclasses import dataclass

import pytest
import torch

import lds_iter as li


@dataclass(frozen=True)
class NoBetterThanThree(li.AbstractRule):
    """A rule of a user's own that remembers several numbers of each sequence: the last three residuals."""

    def init(self, progress):
        return torch.full((*progress.residual.shape, 3), torch.inf, dtype=torch.float64)

    def holds(self, progress, carry):
        now = progress.residual.unsqueeze(-1)
        return (now > carry).any(-1), torch.cat([carry[..., 1:], now], -1)


RULES = [
    li.SmallUpdate(1e-3),
    li.Stalled(2, 0.9),
    li.Below(1e-2),
    li.After(4),
    li.Stalled(1, 0.5) | li.SmallUpdate(0.1),
    NoBetterThanThree(),
]


@pytest.mark.parametrize("window", [3, 6, 9])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_sequences_stop_as_they_do_alone(rule, window):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 6, 2, dtype=torch.float64, generator=generator)
    gain = torch.tensor([0.1, 0.5, 0.9, 1.2, 1.6, 2.5], dtype=torch.float64).unsqueeze(-1)  # from easy to hard

    def f(s, u):
        return u[1] * torch.sin(s) + u[0]

    def solved(which):
        given = (inputs[:, which], gain[which].expand(40, *gain[which].shape))
        return li.solve(f, inputs[0, which], given, li.QuasiNewton(), window=window, stop=rule, throw=False)

    together = solved(slice(None))
    for one in range(6):
        alone = solved(one)
        assert int(together.result[one]) == int(alone.result)
        assert int(together.iterations[one]) == int(alone.iterations)
        torch.testing.assert_close(together.states[:, one], alone.states, rtol=1e-12, atol=1e-12)  # one rounding
