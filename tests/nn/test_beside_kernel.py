"""Where `Auto` and torch's kernel meet: what a layer makes of each decision. The decisions are given here."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from layers import KINDS, pair

import lds_iter as li
from lds_iter.loop.run import run
from lds_iter.loop.state import AbstractStrategy
from lds_iter.nn._forward import recurrence_of
from lds_iter.nn._plan import LOST, RACE
from lds_iter.nn._recorded import saves_elsewhere
from lds_iter.nn._sequences import Lengths
from lds_iter.nn._ways import by_race, torch_kernel
from lds_iter.nn._weights import layer_weights
from lds_iter.nn.options import SolveOptions

OPTIONS = SolveOptions(rtol=1e-12, atol=1e-12)


@dataclass(frozen=True)
class Decided(AbstractStrategy):
    """In place of an `Auto`, one that has decided."""

    for_kernel: bool
    kernel: partial | None = None

    def beside(self, name, kernel):
        assert name in {"the kernel of torch.nn." + kind for kind in KINDS}
        return replace(self, kernel=kernel)

    def run(self, problem, guess, options, observers):
        with torch.no_grad():
            self.kernel()  # to be timed
        state = run(problem, li.Newton(), guess, options, observers)
        stopped = torch.full_like(state.result, int(li.Result.STOPPED))
        return replace(state, result=stopped) if self.for_kernel else state

    def for_adjoint(self):
        return li.Newton()


def arguments(kind, **options):
    """A layer of torch, its recurrence, inputs and initial states."""
    theirs, _ = pair(kind, **options)
    x, h = torch.randn(20, 2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    return theirs, recurrence_of(theirs, 0, False, torch.float64), x, (h, 0.5 * h) if kind == "LSTM" else (h,)


@pytest.mark.parametrize("for_kernel", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "relu"])
def test_results_and_gradients_are_those_of_torch_whatever_is_decided(kind, for_kernel):
    theirs, f, x, start = arguments("RNN", nonlinearity="relu") if kind == "relu" else arguments(kind)
    first = tuple(state.unsqueeze(0) for state in start)
    expected, final = theirs(x, first if kind == "LSTM" else first[0])
    part = by_race(theirs, None, OPTIONS, Decided(for_kernel))(0, f, x, start)
    assert part.plan is (LOST if for_kernel else RACE)
    assert (part.solution is None) == for_kernel
    torch.testing.assert_close(part.results[0], expected)
    for one, other in zip(part.results[1], final if kind == "LSTM" else (final,), strict=True):
        torch.testing.assert_close(one, other[0])
    gradients = (torch.autograd.grad(o.sin().sum(), list(theirs.parameters())) for o in (part.results[0], expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("for_kernel", [False, True])
def test_second_derivatives_are_refused_whatever_is_decided(for_kernel):
    theirs, f, x, start = arguments("GRU")
    output = by_race(theirs, None, OPTIONS, Decided(for_kernel))(0, f, x, start).results[0]
    with pytest.raises(RuntimeError, match=r"layer\.method = li\.QuasiNewton\(\)"):
        torch.autograd.grad(output.sum(), list(theirs.parameters()), create_graph=True)


def test_unequal_lengths_are_left_to_the_kernel_of_the_whole_module():
    theirs, f, x, start = arguments("GRU")
    lengths = Lengths.of(torch.tensor([20, 7]), x)
    part = by_race(theirs, lengths, OPTIONS, Decided(True))(0, f, x, start)
    assert part.results is None
    assert part.plan is LOST
    assert by_race(theirs, lengths, OPTIONS, Decided(False))(0, f, x, start).results is not None


@pytest.mark.parametrize("kind", KINDS)
def test_timing_the_kernel_leaves_no_graph_and_fires_no_hook(kind):
    theirs, _, x, start = arguments(kind)
    seen = []
    theirs.weight_hh_l0.register_hook(seen.append)
    with torch.no_grad():
        output, _ = torch_kernel(theirs, layer_weights(theirs, 0, False), x.requires_grad_(), start)
    assert not output.requires_grad
    assert seen == []


def test_checkpointing_is_noticed():
    """There `Auto` has no say: what is computed again must be what was computed."""
    assert not saves_elsewhere()
    with torch.autograd.graph.save_on_cpu():
        assert saves_elsewhere()
        with torch.no_grad():
            assert not saves_elsewhere()
