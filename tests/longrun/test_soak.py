"""A short soak, and that each kind of growth is found by it."""

import threading
from pathlib import Path

import pytest

from bench.soak.__main__ import grew
from bench.soak.measure import growth, soak, solving, training

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="read from Linux")


@pytest.mark.parametrize(("action", "times"), [(solving, 90), (training, 40)])
def test_nothing_grows(action, times):
    """Memory is left to `python -m bench.soak`: within so few the allocator has not settled."""
    more = growth(list(soak(action(), times, looks=5)))
    assert more["descriptors"] <= 0
    assert more["threads"] <= 0
    assert more["objects"] < 500  # a table or two; a leak of what a solve makes would be thousands


@pytest.mark.parametrize("what", ["descriptors", "threads", "objects"])
def test_what_grows_is_found(what, tmp_path):
    kept, over = [], threading.Event()

    def leak(number):
        if what == "descriptors":
            kept.append((tmp_path / str(number)).open("w"))
        elif what == "threads":
            kept.append(threading.Thread(target=over.wait))
            kept[-1].start()
        else:
            kept.extend([] for _ in range(400))

    seen = list(soak(leak, 10, looks=5))
    over.set()
    for one in kept:
        if what == "descriptors":
            one.close()
        elif what == "threads":
            one.join()
    assert growth(seen)[what] >= 8
    assert grew(seen)


def test_it_is_looked_at_as_often_as_wanted():
    assert [one.done for one in soak(lambda number: None, 30, looks=3)] == [10, 20, 30]
