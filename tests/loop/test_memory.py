"""How much memory a solve takes, counted in live tensor storage, not in seconds or in what the system reports."""

import pytest
import torch

import lds_iter as li
from bench.common.storage import peak_bytes
from lds_iter.derivatives.closed_form import CHUNK_ELEMENTS


def peak_floats(run):
    peak, result = peak_bytes(run)
    return peak / 4, result


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
