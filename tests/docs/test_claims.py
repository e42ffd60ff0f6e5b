"""The speeds that README, home page and "Get started" name are those of the run that is kept: one number a claim."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results"


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


STEPS = {
    (row["threads"], row["layer"], row["T"], row["D"], row["batch"], row["of"]): row["ratio"]
    for threads in (1, 2)
    for row in read(f"cpu-{threads}-threads/steps")["rows"]
}


def gain(layer, length, width, batch=1, threads=1):
    """How many times faster, forward and in training, with the digits that the pages show."""
    ratios = (STEPS[threads, layer, length, width, batch, of] for of in ("forward", "training"))
    return tuple(f"{ratio:.0f}" if ratio >= 4.5 else f"{float(f'{ratio:.1f}'):g}" for ratio in ratios)


def over(solver):
    """How many times the time of `lds_iter` another solver takes for van der Pol's 100,000 steps."""
    case = "van der Pol, 100000 steps, batch 1"
    rows = {row["solver"]: row["forward"] for row in read("cpu-2-threads/ode")["rows"] if row["case"] == case}
    return f"{rows[solver] / rows['lds_iter, rk4']:.0f}"


def within(bound, of):
    """On how many problems, of how many, a kept `Auto` is within `bound` times a reference, and the worst ratio.

    `of` takes the milliseconds of everything but `Auto`.
    """
    rows = [row["ms"] for row in read("cpu-1-threads/auto")["rows"].values() if not row.get("held_out")]
    ratios = [ms["Auto, kept"] / of({k: v for k, v in ms.items() if not k.startswith("Auto")}) for ms in rows]
    return sum(ratio <= bound for ratio in ratios), len(ratios), f"{max(ratios):.2f}"


MAP = [cell["ratio"] for cell in read("cpu-2-threads/map")["cells"] if cell["state"] == "timed"]
TO_BEST = within(1.25, lambda ms: min(ms.values()))
TO_STEPS = within(1.1, lambda ms: ms["step by step"])
LONG, MIDDLE, WIDE = gain("GRU", 100_000, 8), gain("GRU", 10_000, 32), gain("GRU", 1000, 256)
LSTM = gain("LSTM", 10_000, 32)
TWO = [gain("GRU", 100_000, width, threads=2)[0] for width in (8, 32)]
CLAIMS = [
    ("README.md", "T = 100,000, D = 8 forward {} times as fast, in training {} times".format(*LONG)),
    ("README.md", "D = 32 {} and {} times".format(*gain("GRU", 100_000, 32))),
    ("README.md", "T = 1,000, D = 256 {} and {} times".format(*WIDE)),
    ("README.md", "each takes a part of the time steps, {} and {} times forward".format(*TWO)),
    ("docs/index.md", "forward {} times as fast, training {} times".format(*MIDDLE)),
    ("docs/index.md", f"{over('torchdiffeq, rk4')} times as fast as torchdiffeq"),
    ("docs/index.md", f"{over('torch.compile, 10 steps a call')} times as a compiled loop"),
    ("docs/start/layer.md", "| GRU | 100,000 | 8 | {} times | {} times |".format(*LONG)),
    ("docs/start/layer.md", "| GRU | 10,000 | 32 | {} times | {} times |".format(*MIDDLE)),
    ("docs/start/layer.md", "| GRU | 1,000 | 256 | {} times | {} times |".format(*WIDE)),
    ("docs/learn/limits.md", f"{min(MAP):.1f} to {max(MAP):,.0f} times as fast as `torch.nn.GRU`"),
    ("docs/learn/auto.md", "On {} of {} problems a kept `Auto` took at most 1.25 times".format(*TO_BEST)),
    ("docs/learn/auto.md", f"the best fixed choice in hindsight (worst {TO_BEST[2]})"),
    ("docs/learn/auto.md", f"and on {TO_STEPS[0]} at most 1.1 times the loop (worst {TO_STEPS[2]})"),
    ("docs/start/layer.md", "| LSTM | 10,000 | 32 | {} times | {} times |".format(*LSTM)),
]


@pytest.mark.parametrize(("page", "claim"), CLAIMS, ids=[f"{page}-{number}" for number, (page, _) in enumerate(CLAIMS)])
def test_a_claim_is_of_the_run(page, claim):
    assert claim in " ".join((ROOT / page).read_text().split())
