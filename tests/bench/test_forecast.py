"""What a GPU should do: the line of the model by hand, counts on small problems, and the page."""

import math

import pytest

from bench.forecast import counted
from bench.forecast.counted import Count
from bench.forecast.model import chunked, crossing, launches, per_step, seconds
from bench.forecast.page import section

COUNT = Count("GRU", 8, bytes_a_step=200.0, launches=40, launches_once=100, iterations=9)


def test_a_solve_is_a_line_in_its_length():
    assert launches(COUNT) == 100 + 10 * 40
    assert per_step(COUNT, 3, rate=6e9) == pytest.approx(10 * 200 * 3 / 6e9)
    assert seconds(COUNT, 50, 3, 6e9, 1e-6) == pytest.approx(500e-6 + 50 * 1e-6)


def test_both_take_the_same_where_the_lines_cross_and_a_slow_memory_never_wins():
    length = crossing(COUNT, 1, 3e12, 5e-6, 1e-6)
    assert seconds(COUNT, length, 1, 3e12, 5e-6) == pytest.approx(length * 1e-6)
    assert math.isinf(crossing(COUNT, 1, 1e6, 5e-6, 1e-6))


def test_the_chunked_form_reads_the_gates_alone_and_its_maps_vanish_in_long_chunks():
    one, last = chunked(8, 10**9)
    assert one == pytest.approx(4 * 3 * 8)
    assert last == 4 * 4 * 8
    assert chunked(8, 64)[0] - one == pytest.approx(12 * (64 + 8) / 64)


@pytest.mark.parametrize("cell", ["RNN", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("GRU", "LSTM"))])
def test_an_iteration_of_the_loop_on_a_device_launches_a_number_of_operations_that_does_not_grow(cell, monkeypatch):
    """The third iteration launches as many as the first: the same difference between any two counts."""
    monkeypatch.setattr(counted, "CUT", 1)
    monkeypatch.setattr(counted, "LATER", 2)
    each, once = counted.launches(cell)
    assert counted.KERNELS < each < 50
    assert once > 0


def test_the_page_says_what_was_counted():
    text = section({"length": 1_000, "counts": [vars(COUNT)]})
    assert "| GRU | 8 | 200 | 9 | 40 | 500 |" in text
    assert "| GRU | 8 | 16 |" in text
    assert text.count("### ") == 3


@pytest.mark.slow
def test_bytes_of_an_iteration_exceed_the_least_by_what_its_programs_publish():
    """States in and out, three gates: five numbers a channel; and less than a quarter more for maps and notes."""
    assert 5 * 4 * 8 < counted.bytes_a_step("GRU", 8) < 1.25 * 5 * 4 * 8
