"""How much memory a solve takes, counted in live tensor storage, not in seconds or in what the system reports."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lds_iter as li
from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS


class PeakStorage(TorchDispatchMode):
    """The largest number of bytes that live in storages made while the mode is on."""

    def __init__(self):
        super().__init__()
        self.live, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.live and key not in known:
                    self.live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._freed, key)
        self.peak = max(self.peak, self.now)
        return out

    def _freed(self, key):
        self.now -= self.live.pop(key, 0)


def peak_floats(run):
    with PeakStorage() as mode:
        result = run()
    return mode.peak / 4, result


def gru_problem(length, width):
    f = li.nn.GRURecurrence.from_module(torch.nn.GRU(width, width))
    with torch.no_grad():
        return f, torch.zeros(1, width), f.inputs(torch.randn(length, 1, width))


def test_the_counter_counts():
    def three_at_once():
        a = torch.ones(1000)
        b = a + 1
        return (a + b).sum()

    assert 3000 <= peak_floats(three_at_once)[0] < 3100


@pytest.mark.parametrize(
    "method", [li.QuasiNewton(), li.Picard(), li.Jacobi(), li.Damped(li.QuasiNewton(), 0.1)], ids=repr
)
@pytest.mark.parametrize("length", [500, 40_000])
def test_diagonal_methods_take_at_most_16_t_d_floats(method, length):
    f, s0, u = gru_problem(length, 8)
    floats, solution = peak_floats(lambda: li.solve(f, s0, u, method, max_iters=12, throw=False))
    assert solution.iterations > 3
    assert floats <= 16 * length * 8


def test_a_window_bounds_the_memory_of_newton(monkeypatch):
    """Dense Jacobians of all rows would be T D^2; a window keeps a few times window * D^2, and the states."""
    monkeypatch.setenv("LDS_ITER_CPU_KERNELS", "0")  # compiled code forms no Jacobian of a GRU
    length, width, window = 8000, 16, 250
    f, s0, u = gru_problem(length, width)
    floats, solution = peak_floats(lambda: li.solve(f, s0, u, li.Newton(), window=window))
    assert solution.converged
    assert floats <= 6 * length * width + 10 * window * width**2 < length * width**2
    unbounded, _ = peak_floats(lambda: li.solve(f, s0, u, li.Newton()))
    assert unbounded > length * width**2


def test_the_exact_diagonal_of_a_function_is_computed_in_bounded_chunks():
    """D forward-mode products side by side would take D times the memory of the states."""
    weight = torch.randn(64, 64) / 16

    def f(s, u):
        return torch.tanh(s @ weight.T + u)

    length = 20_000
    u = torch.randn(length, 64)
    floats, _ = peak_floats(lambda: li.solve(f, torch.zeros(64), u, li.QuasiNewton(), max_iters=1, throw=False))
    assert floats < 16 * length * 64 + 12 * CHUNK_ELEMENTS < 64 * length * 64
