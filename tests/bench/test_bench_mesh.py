"""One trajectory over several processes: two ranks send what the formula says, and the model agrees with its page."""

import json
import math
import re
import sys
from dataclasses import astuple
from pathlib import Path

import pytest

from bench.common.pages import between
from bench.mesh.counted import formula
from bench.mesh.forecast import FLEETS, LENGTHS, alone, crossing, shared
from bench.mesh.model import Costs, fit, local, messages, seconds
from bench.mesh.network import NETWORKS
from bench.mesh.page import COMMAND, section, works
from bench.mesh.problems import KINDS
from bench.mesh.study import counts
from bench.mesh.work import Work

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "background" / "time-sharding.md").read_text()
RESULTS = json.loads((ROOT / "bench" / "results" / "mesh.json").read_text())
WORKS = works(RESULTS)
TIMED = ("Newton, dense", "QuasiNewton")

LENGTHS_TRIED = [10 ** (k / 4) for k in range(12, 49)]
"""From a thousand to 10^12, four a decade."""

WORK = Work(100, 10, 500.0, 30.0, 60.0, 2, 200.0)


def test_the_formula_by_hand():
    """Of two sequences with D = 4 in float32: 8 float64 numbers, D^2 + D numbers, D numbers, each after 8 bytes."""
    assert formula(KINDS["Newton, dense"], 4, 2) == (8 + 2 * 64, 8 + 2 * 4 * (16 + 4), 8 + 2 * 4 * 4)


@pytest.mark.skipif(sys.platform != "linux", reason="the sockets are counted by Linux")
def test_two_ranks_send_what_the_formula_says():
    rows = counts(("Newton, dense", "Picard"), (2,), ((4, 2),))
    assert [(row["kind"], row["rank"]) for row in rows] == [
        (kind, k) for k in (0, 1) for kind in ("Newton, dense", "Picard")
    ]
    for row in rows:
        check_counts(row)
        assert 12 < row["headers"] < 18  # 15, and notices of gloo's that come late or early


def check_counts(row):
    frontier, maps, state = row["formula"]
    assert list(row["gathers"]) == [frontier, maps]
    assert row["passed"] == (state if row["rank"] < row["ranks"] - 1 else 0)


def test_the_counts_that_are_kept_are_those_of_the_formula_of_today():
    assert {row["ranks"] for row in RESULTS["counts"]} == {1, 2, 4}
    for row in RESULTS["counts"]:
        assert tuple(row["formula"]) == formula(KINDS[row["kind"]], row["width"], row["batch"])
        check_counts(row)


def test_amounts_by_hand():
    assert local(WORK, 1024, 3) == (100 + 10 * 10, 3 * 1024 * (500 + 2 * 60), 3 * 1024 * 30, 0, 0)
    frontier, maps, state = formula(KINDS["QuasiNewton"], 4, 1)
    assert messages("QuasiNewton", 4, 1, 1) == (0, 0, 0, 0, 0)
    assert messages("QuasiNewton", 4, 1, 4) == (0, 2 * 3 * maps, 0, 2 * 3 + 1, 3 * (frontier + maps) + state)


def amounts_of(length, width, ranks):
    here, there = local(WORK, length), messages("Newton, dense", width, 1, ranks)
    launched, moved, flops, hops, sent = (a + b for a, b in zip(here, there, strict=True))
    return launched, moved, flops, hops, sent


def test_the_fit_finds_the_costs_that_made_the_times_and_none_below_zero():
    amounts = [
        amounts_of(length, width, ranks) for length in (16, 999, 30_000) for width in (4, 64) for ranks in (1, 4)
    ]
    costs = Costs(3e-6, 2e-10, 0.0, 1e-3, 1e-8)
    found = fit(amounts, [seconds(one, costs) for one in amounts])
    assert min(astuple(found)) >= 0
    for one in amounts:  # bytes and products are in proportion here, so their costs alone are not determined
        assert seconds(one, found) == pytest.approx(seconds(one, costs), rel=1e-6)


def test_a_small_message_takes_its_latency_and_a_large_one_its_bytes():
    near, far = NETWORKS["NVLink"], NETWORKS["Ethernet"]
    assert near.gather(2, 0) == pytest.approx(3.6e-6 + 0.47e-6)
    assert far.gather(16, 0) == pytest.approx(3.6e-6 + 14 * 1.8 * 0.47e-6 + 23e-6)
    assert near.gather(8, 1e9) == pytest.approx(7e9 / 370e9, rel=0.01)  # hops take less than a hundredth of it
    assert near.hop(8, 0) < near.gather(8, 0)


@pytest.mark.parametrize("kind", TIMED)
@pytest.mark.parametrize("fleet", FLEETS, ids=lambda fleet: fleet.name)
def test_several_gpus_gain_from_the_crossing_on_and_never_where_there_is_none(kind, fleet):
    beginning = crossing(kind, fleet, WORKS)
    for length in LENGTHS_TRIED:
        gains = shared(kind, length, 1, fleet, WORKS).seconds < alone(kind, length, 1, WORKS).seconds
        assert gains == (length >= beginning), length


@pytest.mark.parametrize("kind", TIMED)
def test_with_as_many_sequences_as_gpus_or_a_multiple_whole_sequences_are_faster(kind):
    for fleet in FLEETS:
        for times in 1, 8:
            for length in LENGTHS_TRIED:
                whole = alone(kind, length, times, WORKS).seconds
                assert shared(kind, length, times * fleet.ranks, fleet, WORKS).seconds > whole


def test_the_page_shows_what_is_kept():
    assert between(PAGE, COMMAND, section(RESULTS)) == PAGE
    never = [math.isinf(crossing(kind, fleet, WORKS)) for fleet in FLEETS for kind in TIMED]
    table = section(RESULTS).split("### From which T on")[1].split("###")[0]
    assert table.count("never") == sum(never)
    assert never[0], "the page says that two GPUs with full matrices never gain"


def test_the_tables_are_small_and_their_numbers_have_no_exponents():
    text = section(RESULTS)
    assert all(f"| {length:,} |" in text for length in LENGTHS)
    assert re.findall(r"\de[+-]?\d", text) == []
    assert "\n\n\n" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)
    assert len(tables) == 7
    for table in tables:
        head, _, *lines = table.splitlines()
        assert len(lines) <= 8
        assert {line.count("|") for line in (head, *lines)} == {head.count("|")}
        assert head.count("|") <= 9
